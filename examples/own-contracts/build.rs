fn main() -> Result<(), mesh_build::Error> {
    mesh_build::compile(&["proto/greenhouse/v1/greenhouse.proto"], &["proto"])
}
