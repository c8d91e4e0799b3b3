#!/bin/sh
# Puts the image's files into a directory: `rootfs.sh DIR`, run in the builder of deploy/Dockerfile.
# The binary links glibc, so that names are resolved as everywhere else; three libraries and the loader are all it needs.
set -eu
root=${1:?}
arch=${TARGETARCH:?}
case $arch in
  amd64) cpu=x86_64 loader=/lib64/ld-linux-x86-64.so.2 ;;
  arm64) cpu=aarch64 loader=/lib/ld-linux-aarch64.so.1 ;;
esac
mkdir -p "$root/etc/ssl/certs" "$root/data" "$root/app/models" "$root/lib" "$root$(dirname $loader)" "$root/licenses"
cp text2vec-sidecar "$root/"
cp LICENSE NOTICE "$root/licenses/"

# Natively the libraries lie below /lib, those of a cross compiler below /usr/<cpu>-linux-gnu/lib.
find_library() {
  for folder in /lib/$cpu-linux-gnu /usr/lib/$cpu-linux-gnu /usr/$cpu-linux-gnu/lib /lib /lib64; do
    if [ -e "$folder/$1" ]; then
      echo "$folder/$1"
      return
    fi
  done
  echo "the builder has no $1 for $arch" >&2
  exit 1
}
# The builder may be without binutils: the names of needed libraries stand in the binary as text, each ended by a zero.
needed=$(tr '\0' '\n' <text2vec-sidecar | LC_ALL=C grep -aE '^lib[a-z_+0-9-]+\.so(\.[0-9]+)+$' | sort -u)
for name in $needed; do
  case $name in
    libc.so.6 | libm.so.6 | libgcc_s.so.1) cp -L "$(find_library $name)" "$root/lib/" ;;
    # Part of libc.so.6 since glibc 2.34.
    libpthread.so.0 | libdl.so.2 | librt.so.1) cp -L "$(find_library $name)" "$root/lib/" ;;
    *) echo "the binary needs $name, which the image does not have: see deploy/image/rootfs.sh" >&2; exit 1 ;;
  esac
done
cp -L "$(find_library $(basename $loader))" "$root$loader"

# Roots for https: Hub, upstreams, telemetry.
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
echo 'nonroot:x:65532:65532:nonroot:/data:/sbin/nologin' >"$root/etc/passwd"
echo 'nonroot:x:65532:' >"$root/etc/group"

# Readable by any user id of group 0 (OpenShift gives a random one); only /data may be written, and only if it is mounted so.
chmod -R a+rX "$root"
chown -R 0:0 "$root"
chown 65532:0 "$root/data"
chmod 775 "$root/data"
