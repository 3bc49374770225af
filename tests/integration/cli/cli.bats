#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
# The command line by itself: what it says without a controller.

setup() {
    cd "$BATS_TEST_TMPDIR"
    export SEALPOINT_PROFILE=$PWD/profile
}

profile() { # a whole one, of a controller that does not run
    mkdir profile
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout profile/user.key -out profile/user.pem \
        -subj /CN=t -addext "subjectAltName=URI:spiffe://lab/user/t" -days "${1:-2}" 2>/dev/null
    cp profile/user.pem profile/trust.pem
    printf '[client]\ncontroller = 127.0.0.1:1\ndomain = lab\n' >profile/client.conf
}

@test "help lists every command and ends with 0" {
    run "$SEALPOINT" --help
    [ "$status" -eq 0 ]
    [[ $output == *"point restore POINT"* ]]
    [[ $output == *"Exit codes: 0 done"* ]]
}

@test "every command has a help of its own" {
    "$SEALPOINT" --help | sed -n '/^Commands:/,/^$/p' | sed 1d | sed '/^$/d' |
        while read -r a b _; do
            case $a in
            status | backup) words=$a ;;
            *) words="$a $b" ;;
            esac
            # shellcheck disable=SC2086
            "$SEALPOINT" $words --help | grep -q "^Usage: sealpoint $words" || { echo "no help: $words"; exit 1; }
        done
}

@test "unknown words are usage errors that point to the help" {
    run "$SEALPOINT" fly
    [ "$status" -eq 2 ]
    [[ $output == *"--help"* ]]
    run "$SEALPOINT" point fly
    [ "$status" -eq 2 ]
    run "$SEALPOINT" point list --fast
    [ "$status" -eq 2 ]
    [[ $output == *"no option --fast"* ]]
    run "$SEALPOINT" point show
    [ "$status" -eq 2 ]
    [[ $output == *POINT* ]]
    run "$SEALPOINT" point show a b
    [ "$status" -eq 2 ]
    run "$SEALPOINT" key import web1 /dev/vdb --protector
    [ "$status" -eq 2 ]
}

@test "a group alone lists its commands" {
    run "$SEALPOINT" key
    [ "$status" -eq 2 ]
    [[ $output == *"key release POINT"* ]]
    [[ $output != *"vault add"* ]]
}

@test "without a profile it says how to get one" {
    run "$SEALPOINT" status
    [ "$status" -eq 1 ]
    [[ $output == *"sealpointd init"* ]]
}

@test "no controller is exit code 4 and names the address" {
    profile
    run "$SEALPOINT" status
    [ "$status" -eq 4 ]
    [[ $output == *"127.0.0.1:1"* ]]
}

@test "a client.conf with a fault names file and line" {
    profile
    echo 'colour = red' >>profile/client.conf
    run "$SEALPOINT" status
    [ "$status" -eq 1 ]
    [[ $output == *"client.conf, line 4"* ]]
}

@test "a token is never printed and never written over a file" {
    profile
    run "$SEALPOINT" token create --machine web1
    [ "$status" -eq 2 ]
    [[ $output == *"--out"* ]]
    touch there
    run "$SEALPOINT" token create --machine web1 --out there
    [ "$status" -eq 1 ]
    [[ $output == *"there already"* ]]
}

@test "release wants a reason and a place" {
    profile
    run "$SEALPOINT" key release 12345678 --to out
    [ "$status" -eq 2 ]
    [[ $output == *"--why"* ]]
    [ ! -e out ]
}

@test "restore knows three formats" {
    profile
    run "$SEALPOINT" point restore 12345678 --to out --format vmdk
    [ "$status" -eq 2 ]
    [[ $output == *"raw, qcow2 or vhd"* ]]
}
