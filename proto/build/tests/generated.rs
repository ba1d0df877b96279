//! The code that is generated for a contract with one of everything, compared with what stands in `golden/`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends where it can't go on")]

use std::{fs, path::Path};

use mesh_build::Config;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");

/// Fails with the way to accept the new text.
fn assert_golden(name: &str, actual: &str) {
    let expected = fs::read_to_string(Path::new(GOLDEN).join(name)).unwrap_or_default();
    if actual != expected {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&kept, actual).unwrap();
        panic!("{name} differs. See: diff {0}/{name} {1}\nIf it is meant: cp {1} {0}/", GOLDEN, kept.display());
    }
}

fn compile_golden() -> tempfile::TempDir {
    let out = tempfile::tempdir().unwrap();
    let parcel = Path::new(GOLDEN).join("parcel/v1/parcel.proto");
    Config::new().file(parcel).include(GOLDEN).out_dir(out.path()).compile().unwrap();
    out
}

#[test]
fn the_code_is_as_agreed() {
    let out = compile_golden();
    let code = fs::read_to_string(out.path().join("parcel.v1.rs")).unwrap();
    // Above stands prost's code, which is prost's to change.
    let ours = code.find("\nimpl ::mesh_core::contract::Contract").unwrap();
    assert!(code[..ours].contains("pub struct Sent"));
    assert_golden("parcel.v1.rs", &code[ours..]);
    assert_golden("mesh_contracts.rs", &fs::read_to_string(out.path().join("mesh_contracts.rs")).unwrap());
}

#[test]
fn the_descriptors_keep_their_options_and_imports() {
    let out = compile_golden();
    let bytes = fs::read(out.path().join("mesh_contracts.fds")).unwrap();
    let pool = prost_reflect::DescriptorPool::decode(bytes.as_slice()).unwrap();
    let sent = pool.get_message_by_name("parcel.v1.Sent").unwrap();
    assert_eq!(mesh_proto::options::event(&sent).unwrap().producer, "ware-house");
    assert!(pool.get_message_by_name("mesh.v1.Fault").is_some());
    assert!(sent.parent_file().file_descriptor_proto().source_code_info.is_none(), "comments stay at home");
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let out = compile_golden();
    let path = out.path().join("parcel.v1.rs");
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86_400);
    fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let parcel = Path::new(GOLDEN).join("parcel/v1/parcel.proto");
    Config::new().file(parcel).include(GOLDEN).out_dir(out.path()).compile().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
}

#[test]
fn the_code_of_another_crates_package_is_referred_to() {
    let (folder, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = "syntax = \"proto3\"; package depot.v1; import \"parcel/v1/parcel.proto\";
        service Depot { rpc Take(parcel.v1.FetchRequest) returns (parcel.v1.FetchReply); }";
    fs::write(folder.path().join("depot.proto"), text).unwrap();
    let config = Config::new().file(folder.path().join("depot.proto")).include(folder.path()).include(GOLDEN);
    config.out_dir(out.path()).extern_package("parcel", "::parcels::parcel").compile().unwrap();
    let code = fs::read_to_string(out.path().join("depot.v1.rs")).unwrap();
    assert!(code.contains("type Request = ::parcels::parcel::v1::FetchRequest;"), "{code}");
    assert!(!out.path().join("parcel.v1.rs").exists());
}
