//! The command line: one file per subcommand.
//!
//! Exit codes: 0 it worked, 1 it failed (one line on stderr says why), 2 the command line is wrong.

mod client;
mod doctor;
mod job;
mod progress;
mod serve;
mod sql;
mod table;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  ottla serve                                  broker on 127.0.0.1:9092, data in ./ottla-data
  ottla serve --set num.partitions=4           with a config of your own
  echo hello | kcat -b localhost:9092 -t test -P
  ottla sql -f counts.sql                      start the streaming jobs of a script
  ottla sql -e 'SHOW JOBS'
  ottla job list
  ottla doctor ottla-data                      check a stopped broker's data";

/// An Apache Kafka broker and a Flink-style stream processor in one process.
#[derive(Debug, Parser)]
#[command(name = "ottla", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the broker.
    Serve(ServeArgs),
    /// Run SQL statements in a running broker.
    Sql(SqlArgs),
    /// List, show, stop and cancel streaming jobs.
    #[command(subcommand)]
    Job(JobCommand),
    /// Verify a stopped broker's data directory; exits 1 if anything is damaged.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor {
        /// The directory.
        data_dir: PathBuf,
        /// Make damaged logs writable again: whole batches stay, damaged bytes are saved beside the
        /// log, lost offsets are named and passed over.
        #[arg(long)]
        repair: bool,
    },
}

const DOCTOR_EXAMPLES: &str = "\
Examples:
  ottla doctor /var/lib/ottla                  names each bad offset, changes no log
  ottla doctor --repair /var/lib/ottla         and gives up what cannot be read

Exit codes: 0 all is whole (after --repair: whole now), 1 something is bad or could not be examined.";

const SERVE_EXAMPLES: &str = "\
Flags beat environment variables (OTTLA_NUM_PARTITIONS=4), which beat the config file.
When it can serve, it says so in one line on stdout:
  ottla ready kafka=127.0.0.1:9092 http=127.0.0.1:9644 data=ottla-data
Logs go to stderr; OTTLA_LOG=debug or OTTLA_LOG=info,ottla::group=debug shows more.";

#[derive(Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
struct ServeArgs {
    /// Read configs from this TOML file; config/ottla.toml lists them all with their defaults.
    #[arg(long, value_name = "FILE", env = "OTTLA_CONFIG")]
    config: Option<PathBuf>,
    /// Where everything lies that must survive [default: ottla-data].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the Kafka protocol; port 0 picks a free one [default: 127.0.0.1:9092].
    #[arg(long, value_name = "ADDR")]
    kafka_listen: Option<String>,
    /// Address of metrics, health, SQL and jobs [default: 127.0.0.1:9644].
    #[arg(long, value_name = "ADDR")]
    http_listen: Option<String>,
    /// Set any config, as often as needed.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

const SQL_EXAMPLES: &str = "\
Examples:
  ottla sql -f counts.sql
  ottla sql -e 'SHOW JOBS'
  generate-sql | ottla sql -f -
  ottla sql                                    type statements, each ended by ';'

A script's tables live as long as its session; its INSERT jobs run on until they are stopped.";

#[derive(Debug, Args)]
#[command(after_help = SQL_EXAMPLES)]
struct SqlArgs {
    /// Statements, separated by ';'.
    #[arg(short = 'e', long = "execute", value_name = "STATEMENT", conflicts_with = "file")]
    execute: Option<String>,
    /// A file of statements; '-' reads stdin.
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    file: Option<PathBuf>,
    /// How results are printed.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Args)]
struct ServerArgs {
    /// The broker's HTTP address.
    #[arg(long, value_name = "URL", env = "OTTLA_URL", default_value = "http://127.0.0.1:9644")]
    url: String,
}

/// How `ottla sql` prints rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// One JSON object per row and line.
    Json,
    /// With a header line.
    Csv,
}

#[derive(Debug, Subcommand)]
enum JobCommand {
    /// All jobs, newest first.
    List {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// One job: its operators, positions, watermark and newest checkpoint.
    Show {
        /// The job's id; a beginning that is unique will do.
        id: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Take a last checkpoint, then end the job.
    Stop {
        /// The job's id; a beginning that is unique will do.
        id: String,
        /// Keep the checkpoint for another job to begin from (not implemented yet).
        #[arg(long)]
        savepoint: bool,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// End the job now; what it wrote since its last checkpoint is aborted.
    Cancel {
        /// The job's id; a beginning that is unique will do.
        id: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Runs the program: parses the arguments, runs the subcommand, tells how it went.
pub fn run() -> ExitCode {
    // Wrong usage prints its own message and exits 2; --help and --version exit 0.
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Sql(args) => sql::run(&args),
        Command::Job(command) => job::run(&command),
        Command::Doctor { data_dir, repair } => doctor::run(&data_dir, repair),
    };
    match outcome {
        Ok(code) => code,
        // `ottla sql … | head` has what it wants.
        Err(error) if is_broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            // With stderr closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "ottla: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// An error and its causes as one line. Messages that already tell their cause, as the rooms' do,
/// are not followed by it again.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line.replace('\n', " ")
}
