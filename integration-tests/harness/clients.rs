//! The real clients: how each is started, and where `scripts/test` put what it built for them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard};

use super::Broker;

/// Held while a JVM (or another large program) runs: two at a time would starve a small machine,
/// and every bounded wait with it.
pub fn heavy() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    // A test that failed while it held the turn gives it up like any other.
    ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A Java program of `integration-tests/java`: `module` is the Maven module (`clients`,
/// `clients-3.9`, `flink`), `program` its class. Hold [`heavy`] while it runs.
#[track_caller]
pub fn java(module: &str, program: &str) -> Command {
    let built = cache().join("java").join(module);
    let dependencies = std::fs::read_to_string(built.join("classpath")).unwrap_or_else(|_| {
        panic!(
            "{} is missing: `scripts/test` builds the Java programs once",
            built.join("classpath").display()
        )
    });
    let mut command = Command::new("java");
    command
        .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg("-cp")
        .arg(format!("{}:{}", built.join("classes").display(), dependencies.trim()));
    if module == "flink" {
        // Flink's serialisers look into these packages (its own start scripts say the same).
        for package in ["util", "lang", "time", "net", "io", "nio"] {
            command.arg(format!("--add-opens=java.base/java.{package}=ALL-UNNAMED"));
        }
    }
    command.arg(program);
    command
}

/// kcat against `broker`.
pub fn kcat(broker: impl std::fmt::Display) -> Command {
    let mut command = Command::new("kcat");
    // A user's own configuration must not change what is tested.
    command.env("KCAT_CONFIG", "/dev/null").arg("-b").arg(broker.to_string());
    command
}

/// `integration-tests/python/<script>` with the pinned confluent-kafka.
#[track_caller]
pub fn python(script: &str) -> Command {
    let interpreter = cache().join("python/bin/python");
    assert!(
        interpreter.exists(),
        "{} is missing: `scripts/test` makes the Python environment once",
        interpreter.display()
    );
    let mut command = Command::new(interpreter);
    command.arg(source("python").join(script));
    command
}

/// Prometheus as Debian packages it.
pub fn prometheus() -> Command {
    Command::new("prometheus")
}

/// `ottla sql` against `broker`.
pub fn sql(broker: &Broker) -> Command {
    let mut command = Broker::ottla(["sql"]);
    command.args(["--url", &format!("http://{}", broker.http())]);
    command
}

/// A file or folder of `integration-tests/`.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration-tests").join(path)
}

/// Where `scripts/test` keeps what it builds and downloads, outside the checkout.
fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base =
        base.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    base.expect("HOME or XDG_CACHE_HOME is set").join("ottla")
}
