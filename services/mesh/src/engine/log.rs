//! The end of a log file, for an error message.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// How much of the end is looked at, in bytes.
const WINDOW_BYTES: u64 = 32 << 10;

/// The last lines of the file; empty if it can't be read.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let length = length(path);
    let text = since(path, length.saturating_sub(WINDOW_BYTES));
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// The file's length in bytes; 0 if it can't be read.
pub(super) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0)
}

/// What was written after this offset, at most a window's worth; empty if it can't be read.
pub(super) fn since(path: &Path, offset: u64) -> String {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(WINDOW_BYTES).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_last_lines_of_a_long_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert_eq!(tail(&path, 3), "");
        let text: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
        std::fs::write(&path, text).unwrap();
        assert_eq!(tail(&path, 2), "line 19998\nline 19999");
        assert_eq!(since(&path, length(&path) - 11), "line 19999\n");
    }
}
