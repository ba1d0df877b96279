//! A file that gets its name when it is whole: until then it is called `NAME.part`.
//!
//! Nothing that has the name already is ever replaced, whenever it appeared; and nothing that was written whole is thrown away
//! because it can't have its name.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use mesh_core::fault::{Code, Effect, Fault, Reason};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::super::Failure;

/// What is written under the other name. Dropped before it has its own, it is removed.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    name: PathBuf,
    /// Whether it stays when this is dropped.
    is_kept: bool,
}

impl Part {
    /// Makes the file. Only its owner may read it.
    ///
    /// # Errors
    /// Something has the name or the other one (also a link that leads nowhere), or it can't be made.
    pub(super) fn create(name: &Path) -> Result<(Part, File), Failure> {
        // Of a link that leads nowhere exists() says no.
        if name.symlink_metadata().is_ok() {
            return Err(not_made(name, "it exists already"));
        }
        let mut path = name.to_owned().into_os_string();
        path.push(".part");
        let path = PathBuf::from(path);
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = made.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => in_the_way(name, &path),
            _ => not_made(&path, &error.to_string()),
        })?;
        Ok((Part { path, name: name.to_owned(), is_kept: false }, file))
    }

    /// Gives it its name, once all of it is on the disk.
    ///
    /// # Errors
    /// The disk does not take all of it, or something has the name by now: the file stays under the other name.
    pub(super) fn finish(mut self, file: &File) -> Result<(), Failure> {
        // It may have taken long: from here on it is not this command's to throw away.
        self.is_kept = true;
        // What the disk refused once it may say nothing of when it is asked again: nobody is told that it is whole.
        file.sync_all().map_err(|error| cut_short(&self.path, &self.name, &error))?;
        rename(&self.path, &self.name).map_err(|error| kept(&self.path, &self.name, &error))?;
        // The file is on the disk; its name is soon, also where a file system does not sync folders.
        let folder = self.name.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.is_kept {
            // It is this command's own, and worth nothing.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Renames it, unless something has the name by now.
fn rename(part: &Path, name: &Path) -> io::Result<()> {
    match renameat_with(CWD, part, CWD, name, RenameFlags::NOREPLACE) {
        // There are file systems that can't.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link(part, name),
        renamed => Ok(renamed?),
    }
}

/// The same by a second name.
fn link(part: &Path, name: &Path) -> io::Result<()> {
    fs::hard_link(part, name)?;
    // It has its name; the other one harms nobody.
    let _ = fs::remove_file(part);
    Ok(())
}

fn not_made(path: &Path, why: &str) -> Failure {
    let message = format!("{} can't be made: {why}", path.display());
    Failure::input(
        message,
        "name a file that does not exist yet, in a folder that does (NAME.part is made there first)",
    )
}

fn in_the_way(name: &Path, part: &Path) -> Failure {
    let (part, message) = (part.display(), format!("{} can't be made: {} is there", name.display(), part.display()));
    let help = format!(
        "where no export writes it now, one was killed and left it: look at it and remove it (rm {part}), or name another file"
    );
    Failure::input(message, help)
}

fn cut_short(part: &Path, name: &Path, error: &io::Error) -> Failure {
    let (part, name) = (part.display(), name.display());
    let message =
        format!("{name} can't be made: the disk did not confirm {part}, which may not be whole there: {error}");
    let fault = Fault::new(Code::DataLoss, Effect::Unknown, Reason::InvalidInput, message);
    Failure::new(fault, format!("export again to another place; {part} may lack its end: don't import it, remove it"))
}

fn kept(part: &Path, name: &Path, error: &io::Error) -> Failure {
    let (part, name) = (part.display(), name.display());
    let message = format!("{name} can't be made: {error}; the letters are all in {part}");
    let fault = Fault::new(Code::FailedPrecondition, Effect::Done, Reason::InvalidInput, message);
    Failure::new(fault, format!("give it another name yourself: mv {part} NAME"))
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::fs::symlink};

    use super::*;

    fn begun(name: &Path) -> (Part, File) {
        let (part, mut file) = Part::create(name).unwrap();
        file.write_all(b"letters").unwrap();
        (part, file)
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn it_has_its_name_when_it_is_whole_and_leaves_nothing_where_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("letters");
        let (part, file) = begun(&name);
        assert_eq!(names(folder.path()), ["letters.part"]);
        drop((part, file));
        assert!(names(folder.path()).is_empty());
        let (part, file) = begun(&name);
        part.finish(&file).unwrap();
        assert_eq!(names(folder.path()), ["letters"]);
        assert_eq!(fs::read(&name).unwrap(), b"letters");
    }

    #[test]
    fn what_has_the_name_meanwhile_stays_and_so_does_what_was_written() {
        for is_link in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let name = folder.path().join("letters");
            let (part, file) = begun(&name);
            match is_link {
                true => symlink("nowhere", &name).unwrap(),
                false => fs::write(&name, "a person's").unwrap(),
            }
            let said = part.finish(&file).unwrap_err().to_string();
            assert!(said.contains(&format!("all in {}.part", name.display())), "{said}");
            assert_eq!(names(folder.path()), ["letters", "letters.part"]);
            assert_eq!(fs::read(folder.path().join("letters.part")).unwrap(), b"letters");
            match is_link {
                true => assert_eq!(fs::read_link(&name).unwrap(), Path::new("nowhere")),
                false => assert_eq!(fs::read(&name).unwrap(), b"a person's"),
            }
        }
    }

    #[test]
    fn what_the_disk_does_not_confirm_is_not_called_whole() {
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().join("letters");
        let (part, _) = begun(&name);
        // A file that can't be synced: the system says so of every one that lies on no disk.
        let unsynced = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let failure = part.finish(&unsynced).unwrap_err();
        let said = format!("{failure} {failure:?}");
        assert!(said.contains("may not be whole") && said.contains("export again to another place"), "{said}");
        assert!(said.contains("effect: Unknown") && !said.contains("mv ") && !said.contains("all in"), "{said}");
        assert_eq!(names(folder.path()), ["letters.part"], "it has no name, and is not thrown away");
    }

    #[test]
    fn where_a_file_system_only_links_nothing_is_replaced_either() {
        let folder = tempfile::tempdir().unwrap();
        let (part, name) = (folder.path().join("letters.part"), folder.path().join("letters"));
        fs::write(&part, "letters").unwrap();
        fs::write(&name, "a person's").unwrap();
        assert_eq!(link(&part, &name).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(names(folder.path()), ["letters", "letters.part"]);
        fs::remove_file(&name).unwrap();
        link(&part, &name).unwrap();
        assert_eq!(names(folder.path()), ["letters"]);
    }

    #[test]
    fn what_is_in_the_way_is_named_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (name, part) = (folder.path().join("letters"), folder.path().join("letters.part"));
        symlink("nowhere", &name).unwrap();
        assert!(Part::create(&name).unwrap_err().to_string().contains("exists already"));
        fs::remove_file(&name).unwrap();
        fs::write(&part, "another's").unwrap();
        let said = Part::create(&name).unwrap_err().to_string();
        assert!(said.contains("letters.part is there"), "{said}");
        assert_eq!(fs::read(&part).unwrap(), b"another's");
    }
}
