//! With the feature `cuda`: how CUDA's libraries are found at run time.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    late_cuda()?;
    Ok(())
}

/// CUDA's functions, looked up when they are first called: see src/device/late/late.c. And what
/// `device::cuda` is to know of the build: the versions, and which libraries a GPU needs at run time.
#[cfg(feature = "cuda")]
fn late_cuda() -> Result<(), Box<dyn std::error::Error>> {
    use std::fmt::Write;

    if std::env::var("CARGO_CFG_TARGET_ARCH")? != "x86_64" {
        return Err("GPUs are supported on x86_64 only: leave out --features cuda".into());
    }
    println!("cargo:rerun-if-env-changed=CUDA_COMPUTE_CAP");
    let (major, minor) = cuda_version()?;
    if major != 13 {
        return Err(format!(
            "CUDA {major}.{minor} is not supported: build with CUDA 13, which `make cuda-check` can get"
        )
        .into());
    }
    let capability = std::env::var("CUDA_COMPUTE_CAP").map_err(
        |_| "set CUDA_COMPUTE_CAP to the oldest cards' compute capability, such as 80, or use `make cuda-check`",
    )?;
    let capability: u32 = capability.trim_end_matches(char::is_alphabetic).parse()?;
    println!("cargo:rustc-env=T2V_CUDA_VERSION={major}.{minor}");
    println!("cargo:rustc-env=T2V_CUDA_CAPABILITY={}.{}", capability / 10, capability % 10);
    println!("cargo:rustc-env=T2V_CUDA_LIBRARIES=libcublasLt.so.{major},libcublas.so.{major},libcurand.so.10");

    let folder = "src/device/late";
    println!("cargo:rerun-if-changed={folder}");
    let (mut libraries, mut names, mut code, mut table) = (Vec::new(), String::new(), String::new(), String::new());
    let mut place = 0usize;
    let mut empty = Vec::new();
    for line in std::fs::read_to_string(format!("{folder}/functions.txt"))?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] | ["#", ..] => {}
            ["library", name, file, error] => {
                libraries.push((file.replace("MAJOR", &major.to_string()), error.to_owned(), place));
                empty.push(name.to_owned());
            }
            [function] => {
                writeln!(names, "  \"{function}\", \\")?;
                writeln!(code, ".globl {function}\n.type {function}, @function\n{function}:")?;
                writeln!(code, "  jmp *t2v_late_table+{}(%rip)\n.Lfirst{place}:\n  pushq ${place}", 8 * place)?;
                writeln!(code, "  jmp t2v_late_way\n.size {function}, .-{function}")?;
                writeln!(table, ".quad .Lfirst{place}")?;
                place += 1;
                libraries.last_mut().ok_or("a function before the first library")?.2 = place;
            }
            _ => return Err(format!("functions.txt: what is '{line}'?").into()),
        }
    }
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    let libraries: String =
        libraries.iter().map(|(file, error, end)| format!("  {{\"{file}\", {error}, {end}}}, \\\n")).collect();
    std::fs::write(
        out.join("late_table.h"),
        format!("#define LIBRARIES \\\n{libraries}\n#define NAMES \\\n{names}\n"),
    )?;
    std::fs::write(
        out.join("late_table.S"),
        format!(
            ".text\n{code}.data\n.balign 8\n.globl t2v_late_table\n.hidden t2v_late_table\nt2v_late_table:\n{table}\
             .section .note.GNU-stack,\"\",@progbits\n"
        ),
    )?;
    cc::Build::new()
        .file(format!("{folder}/late.c"))
        .file(out.join("late_table.S"))
        .include(&out)
        .cargo_metadata(false)
        .compile("t2v_late");
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=static:+whole-archive=t2v_late");
    // What candle's crates ask the linker for: empty, as every function is there already.
    for name in empty {
        std::fs::write(out.join(format!("lib{name}.a")), "!<arch>\n")?;
    }
    Ok(())
}

/// The toolkit's version, as its compiler says.
#[cfg(feature = "cuda")]
fn cuda_version() -> Result<(u32, u32), Box<dyn std::error::Error>> {
    let output = std::process::Command::new("nvcc").arg("--version").output();
    let output =
        output.map_err(|error| format!("nvcc cannot be run: {error}; `make cuda-check` gets a CUDA toolkit"))?;
    let text = String::from_utf8(output.stdout)?;
    let version = text.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
    let (major, minor) = version.split_once('.').ok_or_else(|| format!("nvcc says no version: {text}"))?;
    Ok((major.parse()?, minor.parse()?))
}
