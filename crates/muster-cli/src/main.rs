//! `muster`: the process. All of it is in the library beside, where tests reach it.

fn main() -> std::process::ExitCode {
    muster_cli::main()
}
