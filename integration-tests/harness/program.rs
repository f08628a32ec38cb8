//! A child program with its output in files: waits are bounded, and it dies with its handle.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::until;

/// A program that runs in the background.
pub struct Program {
    name: String,
    child: Child,
    output: TempDir,
    status: Option<ExitStatus>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// What was run.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// All it wrote to stdout.
    pub stdout: String,
    /// All it wrote to stderr.
    pub stderr: String,
}

impl Program {
    /// Starts `command` without input. `name` is what failure messages call it.
    #[track_caller]
    pub fn start(name: &str, command: Command) -> Program {
        Program::start_with_input(name, command, b"")
    }

    /// Starts `command` with `input` on stdin.
    #[track_caller]
    pub fn start_with_input(name: &str, mut command: Command, input: &[u8]) -> Program {
        let output = tempfile::tempdir().expect("a temporary folder");
        let stdin = output.path().join("stdin");
        std::fs::write(&stdin, input).expect("writing a program's input");
        let create = |file: &str| File::create(output.path().join(file)).expect("an output file");
        let child = command
            .stdin(File::open(stdin).expect("the input just written"))
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!(
                    "{:?} is not installed: `scripts/test` installs what the tests need",
                    command.get_program()
                )
            }
            Err(error) => panic!("cannot start {name}: {error}"),
        };
        Program { name: name.to_owned(), child, output, status: None }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Where its stderr goes.
    pub fn stderr_path(&self) -> PathBuf {
        self.output.path().join("stderr")
    }

    fn read(&self, file: &str) -> String {
        let bytes = std::fs::read(self.output.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("waiting for a child");
        }
        self.status
    }

    /// Waits until its stdout meets `condition`; panics when it ends before.
    #[track_caller]
    pub fn wait_for_stdout<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let name = self.name.clone();
        until(&format!("{what} from {name}"), limit, || {
            let ended = self.ended();
            let stdout = self.stdout();
            if let Some(value) = condition(&stdout) {
                return Ok(value);
            }
            let seen = format!("stdout:\n{stdout}\nstderr:\n{}", tail(&self.stderr()));
            if let Some(status) = ended {
                panic!("{name} ended ({status}) before {what}; {seen}");
            }
            Err(seen)
        })
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Finished {
        let status = self.wait(limit);
        Finished { name: self.name.clone(), status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Waits until it ends by itself, keeping the handle.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        until(&what, limit, || {
            self.ended().ok_or_else(|| {
                format!(
                    "still running; stdout:\n{}\nstderr:\n{}",
                    tail(&self.stdout()),
                    tail(&self.stderr())
                )
            })
        })
    }

    /// Asks it to end: SIGTERM.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// Ends it at once: SIGKILL. Returns when it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.status = Some(self.child.wait().expect("waiting for a killed child"));
    }

    fn signal(&mut self, signal: Signal) {
        // A child that has not been waited for keeps its id, so this reaches no other process.
        if self.ended().is_none() {
            let id = Pid::from_child(&self.child);
            kill_process(id, signal).expect("signalling a child that has not been waited for");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
        }
    }
}

impl Finished {
    /// Panics unless it exited with 0.
    #[track_caller]
    pub fn success(self) -> Finished {
        assert!(
            self.status.success(),
            "{} failed ({}{}); stdout:\n{}\nstderr:\n{}",
            self.name,
            self.status,
            self.status.signal().map_or(String::new(), |signal| format!(", signal {signal}")),
            tail(&self.stdout),
            tail(&self.stderr)
        );
        self
    }

    /// The lines of stdout.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }
}

/// The last lines of `text`: enough to see what went wrong. The places of stack frames (`at …`, in
/// Java as in Rust) are left out, since they push the reason out of sight.
pub fn tail(text: &str) -> String {
    let place = |line: &&str| line.trim_start().starts_with("at ");
    let lines: Vec<&str> = text.lines().filter(|line| !place(line)).collect();
    lines[lines.len().saturating_sub(80)..].join("\n")
}
