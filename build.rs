//! Recompile when a migration, template or script is added: they are embedded in the binary.

fn main() {
    for dir in ["migrations", "templates", "pxe", "policy"] {
        println!("cargo::rerun-if-changed={dir}");
    }
}
