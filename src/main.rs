//! The `ottla` program.

/// A hostile array count asks the allocator for more than there is: mimalloc maps it lazily where
/// the system allocator aborts.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ottla::cli::run()
}
