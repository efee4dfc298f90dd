//! Compiles the GPU's kernels: with nvcc for GPUs (feature `cuda`), with the C++ compiler for tests (feature `host-kernels`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::{env, fs};

/// Code for these, and PTX of the last for what comes after.
const ARCHITECTURES: [&str; 2] = ["80", "90"];

fn main() {
    println!("cargo::rerun-if-changed=kernels");
    if env::var_os("CARGO_FEATURE_HOST_KERNELS").is_some() {
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .define("MAE_HOST", None)
            .include("kernels")
            .flag_if_supported("-Wno-unknown-pragmas")
            // Fibres jump from stack to stack, which its check of longjmp takes for an error.
            .flag_if_supported("-U_FORTIFY_SOURCE")
            .file("kernels/host/host.cpp")
            .compile("mae_host_kernels");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_for_gpus();
    }
}

fn compile_for_gpus() {
    for name in ["CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let nvcc = find_nvcc().unwrap_or_else(|| {
        fail(
            "the feature `cuda` needs nvcc of CUDA 12 or newer, which is neither in CUDA_HOME nor on PATH: install the CUDA \
             toolkit, or get one from PyPI with `eval \"$(model/cuda-toolkit.sh)\"`, and build again",
        )
    });
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let mut files: Vec<PathBuf> = fs::read_dir("kernels")
        .expect("the folder of kernels")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        let name = file
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let binary = out.join(format!("{name}.fatbin"));
        compile(&nvcc, &file, &binary);
        writeln!(list, "    ({name:?}, include_bytes!({binary:?})),").expect("into a string");
    }
    list.push(']');
    fs::write(out.join("modules.rs"), list).expect("the build folder can be written");
}

fn find_nvcc() -> Option<PathBuf> {
    let homes = ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(env::var_os)
        .map(|home| Path::new(&home).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    homes
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("nvcc"))
        .find(|nvcc| nvcc.is_file())
}

fn compile(nvcc: &Path, file: &Path, binary: &Path) {
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "-o"]);
    command.arg(binary).arg(file);
    for arch in ARCHITECTURES {
        command.arg(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    let newest = ARCHITECTURES[ARCHITECTURES.len() - 1];
    command.arg(format!(
        "-gencode=arch=compute_{newest},code=compute_{newest}"
    ));
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => fail(&format!(
            "nvcc could not compile {}:\n{}{}",
            file.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => fail(&format!("cannot run {}: {error}", nvcc.display())),
    }
}

fn fail(text: &str) -> ! {
    eprintln!("{text}");
    exit(1)
}
