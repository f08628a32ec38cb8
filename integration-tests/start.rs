//! `ottla serve` as it comes: with its defaults, in an empty folder, at once.

use std::time::{Duration, Instant};

use crate::harness::{Broker, PATIENCE, Program};

#[test]
fn a_broker_is_ready_in_well_under_a_second_and_says_where() {
    let mut fastest = Duration::MAX;
    // The machine may be busy with other tests: the fastest start is the program's own.
    for _ in 0..5 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Broker::ottla(["serve"]);
        // The default ports may be taken by somebody's own broker.
        command.args(["--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
        command.current_dir(folder.path());
        let began = Instant::now();
        let mut program = Program::start("ottla serve", command);
        let ready = program.wait_for_stdout("the ready line", PATIENCE, |stdout| {
            let whole = stdout.strip_suffix('\n')?;
            Some(whole.to_owned())
        });
        fastest = fastest.min(began.elapsed());
        let words: Vec<&str> = ready.split(' ').collect();
        let [_, _, kafka, http, data] = words[..] else { panic!("the ready line is '{ready}'") };
        assert_eq!(words[..2], ["ottla", "ready"]);
        assert!(kafka.starts_with("kafka=127.0.0.1:") && !kafka.ends_with(":0"), "{ready}");
        assert!(http.starts_with("http=127.0.0.1:") && !http.ends_with(":0"), "{ready}");
        assert_eq!(data, "data=ottla-data");
        assert!(folder.path().join("ottla-data").is_dir());
        program.terminate();
        assert!(program.wait(PATIENCE).success(), "{}", program.stderr());
    }
    assert!(fastest < Duration::from_secs(1), "the fastest of five starts took {fastest:?}");
}
