#!/usr/bin/env bash
# Tests of the scripts, each in a directory of its own. Ends with a line as `cargo test` prints it.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
root=$PWD
PATH=$PATH:/usr/sbin:/sbin

# A small ext4 image with the directories of a root filesystem; /sbin is a link, as Debian has it.
small_image() {
    mkdir -p tree/usr/sbin tree/usr/local tree/etc
    ln -s usr/sbin tree/sbin
    mke2fs -q -t ext4 -d tree "$1" 32M
}

file_in_image() { debugfs -R "dump $2 $3" "$1" 2>/dev/null && [[ -s $3 ]]; }

a_baked_image_is_whole_and_has_the_agent() {
    small_image image && head -c 3000000 /dev/urandom >agent || return
    WRENN_ENVD=$PWD/agent "$root/scripts/update-debug-rootfs.sh" image || return
    e2fsck -fn image >fsck || { cat fsck; return 1; }
    file_in_image image /usr/local/bin/envd out && cmp agent out || return
    debugfs -R 'stat /usr/local/bin/envd' image 2>/dev/null | grep -q 'Mode:  0755' || return
    debugfs -R 'stat /usr/sbin/init' image 2>/dev/null | grep -q 'Fast link dest: "/usr/local/bin/wrenn-init"' || return
    file_in_image image /usr/local/bin/wrenn-init init && sh -n init
}

baking_again_replaces_the_agent() {
    small_image image && echo old >old && echo new >new || return
    WRENN_ENVD=$PWD/old "$root/scripts/update-debug-rootfs.sh" image || return
    WRENN_ENVD=$PWD/new "$root/scripts/update-debug-rootfs.sh" image || return
    e2fsck -fn image >fsck || { cat fsck; return 1; }
    file_in_image image /usr/local/bin/envd out && cmp new out
}

an_own_init_is_kept() {
    mkdir -p tree/sbin && echo mine >tree/sbin/init && mke2fs -q -t ext4 -d tree image 32M && echo x >agent || return
    WRENN_ENVD=$PWD/agent "$root/scripts/update-debug-rootfs.sh" image || return
    file_in_image image /sbin/init out && [[ $(<out) == mine ]]
}

# Refused with these words, and untouched.
refused() {
    local words=$1 before
    before=$(sha256sum image)
    if WRENN_ENVD=$PWD/agent "$root/scripts/update-debug-rootfs.sh" image 2>said; then
        return 1
    fi
    grep -q "$words" said || { cat said; return 1; }
    [[ $before == "$(sha256sum image)" ]]
}

an_image_that_cannot_be_baked_is_left_alone() {
    echo x >agent
    head -c 100000 /dev/zero >image && refused 'not an ext4' || return
    rm image && mke2fs -q -F -t ext2 image 8M && refused 'not an ext4' || return
    rm image && small_image image && exec 9<image && refused 'in use' || return
    exec 9<&-
    # An agent that does not fit.
    head -c 40000000 /dev/urandom >agent && refused 'could not be written' || return
    [[ -z $(find . -name '.debug-rootfs*') ]]
}

leftovers_are_seen() {
    cd "$root" && scripts/leftovers.sh >"$OLDPWD/before" || return
    local file
    file=$(mktemp /tmp/wrenn-leftover-XXXXXX)
    scripts/leftovers.sh | comm -13 "$OLDPWD/before" - >"$OLDPWD/new"
    rm "$file"
    grep -qxF "file $file" "$OLDPWD/new"
}

missing_packages_are_named() {
    # The programs of this machine, but neither apt nor nft.
    mkdir bin && ln -s "$(command -v bash)" "$(command -v env)" bin || return
    PATH=$PWD/bin "$(command -v bash)" "$root/scripts/deps.sh" build >said 2>&1 && return 1
    grep -q 'no apt' said && grep -q 'pkg-config' said || { cat said; return 1; }
    "$root/scripts/deps.sh" nonsense >said 2>&1 && return 1
    grep -q 'no such purpose' said
}

a_program_is_placed_by_rename() {
    echo one >built && "$root/scripts/place.sh" built out/program || return
    exec 8<out/program
    echo two >built && "$root/scripts/place.sh" built out/program || return
    [[ $(cat <&8) == one && $(<out/program) == two && -x out/program && $(find out -type f | wc -l) == 1 ]]
}

# A clone whose scripts do nothing but say what they were asked for, with this line as its compiler.
stub_clone() {
    mkdir -p clone/scripts clone/builds && cp "$root/scripts/quickstart.sh" clone/scripts || return
    local script
    for script in deps cargo; do printf '#!/bin/bash\necho %s "$@"\n' "$script" >"clone/scripts/$script.sh"; done
    printf '#!/bin/bash\n%s\n' "$1" >clone/scripts/build.sh
    printf '#!/bin/bash\ntouch image\n' >clone/scripts/prepare.sh
    # shellcheck disable=SC2016 # for the program
    printf '#!/bin/bash\n[[ $1 != run ]] || echo Hello from Python\n' >clone/builds/wrenn
    chmod +x clone/scripts/*.sh clone/builds/wrenn
}

quickstart_compiles_while_the_image_is_built() {
    # shellcheck disable=SC2016 # for the program
    local compiler='for _ in {1..200}; do [[ ! -e image ]] || { echo compiled "$@"; exit; }; sleep 0.1; done; exit 1'
    stub_clone "$compiler" || return
    WRENN_DIR=$PWD/dir clone/scripts/quickstart.sh >said 2>&1 || { cat said; return 1; }
    grep -qx 'compiled wrenn' said && grep -q '^Hello from Python' said || { cat said; return 1; }
}

quickstart_tells_why_compiling_failed() {
    stub_clone 'echo "error: no such crate"; exit 101' || return
    ! WRENN_DIR=$PWD/dir clone/scripts/quickstart.sh >said 2>&1 || return
    local words
    for words in 'no such crate' 'target/quickstart.log'; do
        grep -q "$words" said || { cat said; return 1; }
    done
    ! grep -q Hello said
}

guide_is_installed_and_removed() {
    mkdir -p clone/builds/docs/css && cp -r "$root/scripts" "$root/deploy" clone || return
    local program
    for program in wrenn wrenn-cp wrenn-agent envd; do
        printf '#!/bin/sh\n' >"clone/builds/$program" && chmod +x "clone/builds/$program" || return
    done
    export DESTDIR=$PWD/root
    clone/scripts/install.sh install /usr || return
    [[ ! -e root/usr/share/wrenn ]] || return
    echo guide >clone/builds/docs/index.html && echo style >clone/builds/docs/css/general.css || return
    mkdir -p root/usr/share/wrenn/docs && touch root/usr/share/wrenn/docs/of-before.html || return
    (umask 077 && clone/scripts/install.sh install /usr) || return
    (cd root/usr/share/wrenn/docs && [[ $(<css/general.css) == style && ! -e of-before.html ]] &&
        [[ $(stat -c %a css index.html) == $'755\n644' ]]) || return
    clone/scripts/install.sh uninstall /usr && [[ ! -e root/usr/share/wrenn ]]
}

tests=(a_baked_image_is_whole_and_has_the_agent baking_again_replaces_the_agent an_own_init_is_kept
    an_image_that_cannot_be_baked_is_left_alone leftovers_are_seen missing_packages_are_named
    a_program_is_placed_by_rename quickstart_compiles_while_the_image_is_built quickstart_tells_why_compiling_failed
    guide_is_installed_and_removed)
passed=0
failed=0
for test in "${tests[@]}"; do
    work=$(mktemp -d "$root/target/script-test-XXXXXX")
    if (cd "$work" && "$test" >"$work/.output" 2>&1); then
        echo "test $test ... ok"
        passed=$((passed + 1))
    else
        echo "test $test ... FAILED"
        sed 's/^/    /' "$work/.output"
        failed=$((failed + 1))
    fi
    rm -rf "$work"
done
((failed == 0)) && verdict=ok || verdict=FAILED
echo "test result: $verdict. $passed passed; $failed failed"
((failed == 0))
