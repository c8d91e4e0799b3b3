# Sourced by the scripts of this folder, in the root of the repository: how what is released is called, and where it lies.
name=text2vec-sidecar
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
# The oldest C library: that of Debian 10, RHEL 8 and of wheels tagged manylinux_2_28.
glibc=2.28
dist=$PWD/target/dist
stage=$PWD/target/dist-stage

known_cpu() {
  case $1 in
    x86_64 | aarch64) ;;
    *) echo "error: there are releases for x86_64 and aarch64, not for $1" >&2; exit 1 ;;
  esac
}
debian_cpu() { if [ "$1" = x86_64 ]; then echo amd64; else echo arm64; fi; }
subcommand() { echo "${1#cargo-}"; }
write_sums() {
  # In one step: who reads it meanwhile has the old one.
  (cd "$dist" && find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' -printf '%P\0' | sort -z | xargs -0 sha256sum >SHA256SUMS.new &&
    mv SHA256SUMS.new SHA256SUMS)
}
