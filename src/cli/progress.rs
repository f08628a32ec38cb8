//! Shows how far something long has come: a bar on a terminal, a log line every second elsewhere.
//! Log lines that come while there is a bar are written above it.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing::info;
use tracing_subscriber::fmt::MakeWriter;

use crate::types::{Progress, Stage};

/// How often a bar is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(100);
/// How often a line is written, and how long a start may take before anything is told.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The one terminal of this process: bars and log lines take turns on it.
fn screen() -> &'static MultiProgress {
    static SCREEN: OnceLock<MultiProgress> = OnceLock::new();
    // Without a terminal the target draws nothing.
    SCREEN.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

/// Writes log lines to stderr, above the bar if there is one.
pub(super) struct AboveBar;

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        above(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Makes the log's writers.
pub(super) struct AboveBars;

impl MakeWriter<'_> for AboveBars {
    type Writer = AboveBar;

    fn make_writer(&self) -> AboveBar {
        AboveBar
    }
}

/// Runs what writes to the terminal while there may be a bar.
pub(super) fn above<T>(write: impl FnOnce() -> T) -> T {
    screen().suspend(write)
}

/// Shows progress until it is dropped.
pub(super) struct Shown {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Begins to show `progress` on a thread of its own.
pub(super) fn show(progress: &Progress) -> Shown {
    let progress = progress.clone();
    let (done, ended) = channel();
    let watch = move || {
        if screen().is_hidden() {
            tell(&progress, &ended);
        } else {
            draw(&progress, &ended);
        }
    };
    // A broker that cannot spawn this thread has greater worries than a bar.
    let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(watch).ok();
    Shown { done: Some(done), thread }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.done = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was told by the panic hook.
            let _ = thread.join();
        }
    }
}

fn has_ended(ended: &Receiver<()>, interval: Duration) -> bool {
    !matches!(ended.recv_timeout(interval), Err(RecvTimeoutError::Timeout))
}

fn draw(progress: &Progress, ended: &Receiver<()>) {
    // A start that is over at once needs no bar that flickers.
    if has_ended(ended, BAR_INTERVAL) {
        return;
    }
    let bar = screen().add(ProgressBar::no_length());
    let counted = "{spinner} {msg} [{wide_bar}] {pos}/{len}  {prefix}  {elapsed}";
    let uncounted = "{spinner} {msg}  {prefix}  {elapsed}";
    let style = |template| ProgressStyle::with_template(template).map(|s| s.progress_chars("=> "));
    let (Ok(counted), Ok(uncounted)) = (style(counted), style(uncounted)) else { return };
    let mut meter = Meter::new(progress.stage());
    loop {
        let stage = progress.stage();
        bar.set_style(if stage.total > 0 { counted.clone() } else { uncounted.clone() });
        bar.set_message(stage.what);
        bar.set_prefix(meter.bytes(stage));
        bar.set_length(stage.total);
        bar.set_position(stage.done);
        bar.tick();
        if has_ended(ended, BAR_INTERVAL) {
            break;
        }
    }
    bar.finish_and_clear();
    screen().remove(&bar);
}

fn tell(progress: &Progress, ended: &Receiver<()>) {
    let mut meter = Meter::new(progress.stage());
    while !has_ended(ended, LINE_INTERVAL) {
        let stage = progress.stage();
        let Stage { what, done, total, scanned_bytes } = stage;
        let bytes_per_second = meter.rate(stage);
        if total > 0 {
            info!(done, total, scanned_bytes, bytes_per_second, "{what}");
        } else {
            info!(scanned_bytes, bytes_per_second, "{what}");
        }
    }
}

/// Bytes read per second, lately. How long the rest takes is not told: nobody knows how much of a
/// log must be read before it is opened.
struct Meter {
    since: Instant,
    from: u64,
    rate: u64,
}

impl Meter {
    fn new(stage: Stage) -> Meter {
        Meter { since: Instant::now(), from: stage.scanned_bytes, rate: 0 }
    }

    fn rate(&mut self, stage: Stage) -> u64 {
        let elapsed = self.since.elapsed();
        if elapsed >= LINE_INTERVAL.mul_f32(0.9) {
            let bytes = stage.scanned_bytes.saturating_sub(self.from);
            self.rate = (bytes as f64 / elapsed.as_secs_f64()) as u64;
            self.since = Instant::now();
            self.from = stage.scanned_bytes;
        }
        self.rate
    }

    fn bytes(&mut self, stage: Stage) -> String {
        let rate = self.rate(stage);
        match stage.scanned_bytes {
            0 => String::new(),
            bytes => format!("{} read, {}/s", HumanBytes(bytes), HumanBytes(rate)),
        }
    }
}
