//! Compiles the C side of the `turbo` decoder against the libjpeg-turbo that `turbojpeg-sys` has built.

fn main() {
    println!("cargo::rerun-if-changed=src/decode/turbo.c");
    #[cfg(feature = "turbo")]
    {
        // Several folders are separated by commas.
        let include = std::env::var("DEP_TURBOJPEG_INCLUDE")
            .expect("turbojpeg-sys says where its headers are");
        cc::Build::new()
            .file("src/decode/turbo.c")
            .includes(include.split(','))
            .warnings(true)
            .compile("mae_turbo");
    }
}
