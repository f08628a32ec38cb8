//! `ottla sql`: splits a script into statements, runs each in one session of the broker's SQL
//! gateway and prints what comes back.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Map, Value, json};

use super::client::{Client, items};
use super::{Format, SqlArgs, table};
use crate::sql::split;

/// Pause before asking again for rows that are not there yet.
const POLL: Duration = Duration::from_millis(50);

pub(super) fn run(args: &SqlArgs) -> anyhow::Result<ExitCode> {
    let script = match (&args.execute, &args.file) {
        (Some(statements), _) => Some(statements.clone()),
        (None, Some(file)) => Some(read_script(file)?),
        (None, None) if io::stdin().is_terminal() => None,
        (None, None) => Some(read_script(Path::new("-"))?),
    };
    let session = Session::open(Client::new(&args.server.url))?;
    match script {
        Some(script) => run_script(&session, &script, args.format),
        None => converse(&session, args.format),
    }
}

fn read_script(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        return io::read_to_string(io::stdin()).context("stdin");
    }
    std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))
}

/// Stops at the first statement that fails: what follows may build on it.
fn run_script(session: &Session, script: &str, format: Format) -> anyhow::Result<ExitCode> {
    for (index, statement) in split(script).iter().enumerate() {
        session
            .run(statement, format)
            .with_context(|| format!("statement {} ({})", index + 1, first_words(statement)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Statements typed at a terminal; one may run over several lines and ends with `;`.
fn converse(session: &Session, format: Format) -> anyhow::Result<ExitCode> {
    let mut typed = String::new();
    prompt("ottla> ")?;
    for line in io::stdin().lock().lines() {
        let line = line.context("stdin")?;
        if typed.is_empty() && matches!(line.trim(), "quit" | "exit" | "quit;" | "exit;") {
            break;
        }
        typed.push_str(&line);
        typed.push('\n');
        if line.trim_end().ends_with(';') {
            for statement in split(&typed) {
                if let Err(error) = session.run(&statement, format) {
                    eprintln!("{}", super::one_line(&error));
                }
            }
            typed.clear();
        }
        // Nothing but comments so far: no statement has begun.
        if split(&typed).is_empty() {
            typed.clear();
        }
        prompt(if typed.is_empty() { "ottla> " } else { "    -> " })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn prompt(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("stdout")
}

fn first_words(statement: &str) -> String {
    const CHARS_MAX: usize = 40;
    let words = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &words[..end]),
        None => words,
    }
}

/// A session of the SQL gateway; closed when dropped.
struct Session {
    client: Client,
    path: String,
}

impl Session {
    fn open(client: Client) -> anyhow::Result<Session> {
        let body = client.post("/v1/sessions", &json!({ "sessionName": "ottla sql" }))?;
        let handle = text(&body, "sessionHandle")?;
        Ok(Session { path: format!("/v1/sessions/{handle}"), client })
    }

    /// Runs one statement and prints its rows as they come.
    fn run(&self, statement: &str, format: Format) -> anyhow::Result<()> {
        let body = self
            .client
            .post(&format!("{}/statements", self.path), &json!({ "statement": statement }))?;
        let operation = format!("{}/operations/{}", self.path, text(&body, "operationHandle")?);
        let printed = self.print_results(&operation, format);
        // What failed was already told; closing only frees the broker's memory.
        let _ = self.client.delete(&format!("{operation}/close"));
        printed
    }

    fn print_results(&self, operation: &str, format: Format) -> anyhow::Result<()> {
        let mut next = format!("{operation}/result/0?rowFormat=JSON");
        let mut output = Output::new(format);
        loop {
            let page = self.client.get(&next)?;
            let rows = output.page(&page)?;
            match page["nextResultUri"].as_str() {
                Some(uri) => uri.clone_into(&mut next),
                None => break,
            }
            if rows == 0 && page["resultType"] == "NOT_READY" {
                std::thread::sleep(POLL);
            }
        }
        output.end()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The broker forgets idle sessions by itself.
        let _ = self.client.delete(&self.path);
    }
}

/// Prints pages of one statement. Tables are laid out per page, so that a running query's rows are
/// seen as they come.
pub(super) struct Output<W: Write = io::Stdout> {
    format: Format,
    out: W,
    header_printed: bool,
    job: Option<String>,
    rows: u64,
    has_content: bool,
}

impl Output {
    fn new(format: Format) -> Output {
        Output::to(io::stdout(), format)
    }
}

impl<W: Write> Output<W> {
    pub(super) fn to(out: W, format: Format) -> Output<W> {
        Output { format, out, header_printed: false, job: None, rows: 0, has_content: false }
    }

    /// Prints one page and says how many rows it had.
    pub(super) fn page(&mut self, page: &Value) -> anyhow::Result<usize> {
        if let Some(job) = page["jobID"].as_str() {
            self.job = Some(job.to_owned());
        }
        if page["resultKind"] != "SUCCESS_WITH_CONTENT" {
            return Ok(0);
        }
        self.has_content = true;
        let results = &page["results"];
        let names: Vec<&str> = items(&results["columns"])
            .map(|column| column["name"].as_str().unwrap_or_default())
            .collect();
        let rows: Vec<(&str, &Value)> = items(&results["data"])
            .map(|row| (row["kind"].as_str().unwrap_or("INSERT"), &row["fields"]))
            .collect();
        self.rows += rows.len() as u64;
        // A query's rows may be taken back; then each says what it does. SHOW never takes back.
        let changes = rows.iter().any(|(kind, _)| *kind != "INSERT");
        match self.format {
            Format::Table => self.table(&names, &rows, changes),
            Format::Json => self.json(&names, &rows),
            Format::Csv => self.csv(&names, &rows),
        }
        .context("stdout")?;
        Ok(rows.len())
    }

    /// What is said when all pages are printed.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        if self.format == Format::Table {
            match (&self.job, self.has_content) {
                (Some(job), _) => writeln!(self.out, "job {job} is running"),
                (None, true) if self.rows == 1 => writeln!(self.out, "1 row"),
                (None, true) => writeln!(self.out, "{} rows", self.rows),
                (None, false) => writeln!(self.out, "OK"),
            }
            .context("stdout")?;
        } else if let (Some(job), Format::Json) = (&self.job, self.format) {
            writeln!(self.out, "{}", json!({ "job id": job })).context("stdout")?;
        }
        Ok(())
    }

    fn table(&mut self, names: &[&str], rows: &[(&str, &Value)], changes: bool) -> io::Result<()> {
        // The job's id has a line of its own at the end.
        if rows.is_empty() || (self.job.is_some() && names == ["job id"]) {
            return Ok(());
        }
        let headers = changes.then_some("op").into_iter().chain(names.iter().copied());
        let lines = rows.iter().map(|(kind, fields)| {
            let change = changes.then(|| change_name(kind).to_owned());
            change.into_iter().chain(items(fields).map(cell)).collect()
        });
        self.out.write_all(table::render(headers, lines).as_bytes())
    }

    fn json(&mut self, names: &[&str], rows: &[(&str, &Value)]) -> io::Result<()> {
        if self.job.is_some() && names == ["job id"] {
            return Ok(());
        }
        for (kind, fields) in rows {
            let mut object: Map<String, Value> =
                names.iter().map(|name| (*name).to_owned()).zip(items(fields).cloned()).collect();
            if *kind != "INSERT" {
                object.insert("op".to_owned(), json!(change_name(kind)));
            }
            writeln!(self.out, "{}", Value::Object(object))?;
        }
        Ok(())
    }

    fn csv(&mut self, names: &[&str], rows: &[(&str, &Value)]) -> io::Result<()> {
        if !self.header_printed {
            let header: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            writeln!(self.out, "{}", header.join(","))?;
            self.header_printed = true;
        }
        for (_, fields) in rows {
            let line: Vec<String> = items(fields)
                .map(|field| if field.is_null() { String::new() } else { quoted(&cell(field)) })
                .collect();
            writeln!(self.out, "{}", line.join(","))?;
        }
        Ok(())
    }
}

fn cell(field: &Value) -> String {
    match field {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn change_name(kind: &str) -> &'static str {
    match kind {
        "UPDATE_BEFORE" => "-U",
        "UPDATE_AFTER" => "+U",
        "DELETE" => "-D",
        _ => "+I",
    }
}

/// RFC 4180: quotes are doubled, and a field with a separator stands in quotes.
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

fn text<'a>(body: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    body[field].as_str().ok_or_else(|| anyhow!("the broker's answer has no {field}"))
}
