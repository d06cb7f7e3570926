# A root directory for a sandbox that needs places which this machine lacks: gVisor's file server would make them here.
# root.sh ROOT PLACE... -- COMMAND...; runs in mounts of its own, which end with it.
set -eu
root=$1
shift
mount -t tmpfs tmpfs "$root"
for entry in /*; do
    name=${entry#/}
    if [ -L "$entry" ]; then
        cp -a "$entry" "$root/$name"
    elif [ -f "$entry" ]; then # not copied: a swap file may be larger than memory
        : >"$root/$name"
        mount --bind "$entry" "$root/$name"
    elif [ -d "$entry" ]; then
        mkdir "$root/$name"
        [ "$name" = proc ] || [ "$name" = sys ] || mount --rbind "$entry" "$root/$name"
    fi
done
while [ "$1" != -- ]; do
    mkdir -p "$root/$1"
    shift
done
shift
exec "$@"
