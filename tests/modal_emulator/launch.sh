# The inside of a sandbox: this machine's files, over them the sandbox's own top-level directories, the desk's places
# hidden. launch.sh NEWROOT OVERLAY HIDDEN WORKDIR COMMAND...; runs as the first process of its own namespaces.
set -eu
root=$1 overlay=$2 hidden=$3 workdir=$4
shift 4
mount -t tmpfs tmpfs "$root"
for entry in /*; do
    name=${entry#/}
    if [ "$name" = proc ]; then
        mkdir "$root/proc"
    elif [ -L "$entry" ] || [ -f "$entry" ]; then
        cp -a "$entry" "$root/$name"
    elif [ -d "$entry" ]; then
        mkdir "$root/$name"
        mount --rbind "$entry" "$root/$name"
    fi
done
mount -t proc proc "$root/proc"
for entry in "$overlay"/*; do
    [ -d "$entry" ] || continue
    mkdir "$root/${entry##*/}"
    mount --rbind "$entry" "$root/${entry##*/}"
done
while read -r place; do
    [ -d "$root/$place" ] && mount -t tmpfs tmpfs "$root/$place"
done <"$hidden"
exec chroot "$root" sh -c 'cd "$0" && exec "$@"' "$workdir" "$@"
