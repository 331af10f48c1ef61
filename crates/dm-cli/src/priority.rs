//! Giving way to everything else on the machine: a program's business, never a library's.
//!
//! Schedulers of disks that know priorities derive theirs from this one, where none was set.

use std::io;

/// What a program that gives way runs at. Children inherit it: hooks, the throwaway server of a drill.
const NICE: i32 = 10;

/// Lowers this process's priority, unless it is that low already. Raising it again takes privileges, so it stays.
///
/// # Errors
/// The system's.
pub(crate) fn lower() -> io::Result<()> {
    if rustix::process::getpriority_process(None)? >= NICE {
        return Ok(());
    }
    rustix::process::setpriority_process(None, NICE)?;
    lower_threads()
}

/// Linux keeps a priority for each thread, by its number; new threads inherit that of their maker. The second look finds those
/// that were made by one which the first had not reached.
#[cfg(target_os = "linux")]
fn lower_threads() -> io::Result<()> {
    for _ in 0..2 {
        for thread in std::fs::read_dir("/proc/self/task")? {
            let number = thread?.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(number) = number.and_then(rustix::process::Pid::from_raw) else { continue };
            match rustix::process::setpriority_process(Some(number), NICE) {
                // It ended meanwhile.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn lower_threads() -> io::Result<()> {
    Ok(())
}
