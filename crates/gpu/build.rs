//! Compiles the kernels: with nvcc for cards (feature `cuda`), with a C++ compiler for the CPU (feature `emulated`).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    #[cfg(feature = "cuda")]
    for_cards()?;
    #[cfg(feature = "emulated")]
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(true)
        .file("kernels/emulated.cpp")
        .compile("t2v_emulated");
    Ok(())
}

/// One file with machine code for each generation of cards that there is, and PTX for those to come. What the assembler says of
/// each kernel is in ptxas.log beside it.
#[cfg(feature = "cuda")]
fn for_cards() -> Result<(), Box<dyn std::error::Error>> {
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let output = std::process::Command::new("nvcc")
        .args(["-fatbin", "-compress-mode=size", "-std=c++17", "-O3", "-lineinfo", "-Xptxas", "-v"])
        .args(generations()?.map(|it| format!("-gencode=arch=compute_{it},code=sm_{it}")))
        .arg("-gencode=arch=compute_90,code=compute_90")
        .arg("-o")
        .arg(out.join("kernels.fatbin"))
        .arg("kernels/all.cu")
        .output()
        .map_err(|error| format!("nvcc cannot be run: {error}; `make cuda-check` gets a CUDA toolkit"))?;
    let log = [output.stdout, output.stderr].concat();
    std::fs::write(out.join("ptxas.log"), &log)?;
    let log = String::from_utf8_lossy(&log);
    if !output.status.success() {
        return Err(format!("nvcc did not compile kernels/all.cu:\n{log}").into());
    }
    log.lines().filter(|line| line.contains("warning")).for_each(|line| println!("cargo:warning={line}"));
    let spilled = spilled(&log);
    if !spilled.is_empty() {
        return Err(format!("too few registers, so memory takes their place: {}", spilled.join("; ")).into());
    }
    Ok(())
}

/// Those that machine code is made for: the oldest runs on all cards of the same major version from there on.
#[cfg(feature = "cuda")]
fn generations() -> Result<impl Iterator<Item = u32>, Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    const ALL: [u32; 3] = [80, 89, 90];
    let oldest = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| ALL[0].to_string());
    let oldest: u32 = oldest.trim_end_matches(char::is_alphabetic).parse()?;
    if oldest < ALL[0] {
        return Err(format!("CUDA_COMPUTE_CAP is {oldest}, and the kernels need {} or more", ALL[0]).into());
    }
    let first = ALL.into_iter().filter(|&it| it <= oldest).max().unwrap_or(ALL[0]);
    let first = if first / 10 == oldest / 10 { first } else { oldest };
    Ok(ALL.into_iter().filter(move |&it| it >= first))
}

/// The kernels that keep values in memory for which there were no registers, as the assembler says: `Compiling entry function
/// 'name' for 'sm_80'`, `Function properties for name`, then `0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads`.
#[cfg(feature = "cuda")]
fn spilled(log: &str) -> Vec<String> {
    let (mut generation, mut name, mut spilled) = ("", "", Vec::new());
    for line in log.lines() {
        if line.contains("Compiling entry function") {
            generation = line.split('\'').nth(3).unwrap_or_default();
        }
        if let Some((_, function)) = line.split_once("Function properties for ") {
            name = function.trim();
        }
        let stores = line.split(", ").find_map(|part| part.trim().strip_suffix(" bytes spill stores"));
        if stores.is_some_and(|bytes| bytes != "0") {
            spilled.push(format!("{name} for {generation}: {}", line.trim()));
        }
    }
    spilled
}
