#!/usr/bin/env bats
# SPDX-License-Identifier: GPL-3.0-or-later
#
# sealpoint-agent at the command line, without a controller.

setup() {
    agent=$SEALPOINT_BUILD/agent/sealpoint-agent
    corpus=${SEALPOINT_CORPUS:-$SEALPOINT_SOURCE/../shared/corpus}
    folder=$(mktemp -d)
}

teardown() {
    rm -rf "$folder"
}

@test "help teaches, on standard output" {
    run "$agent" --help
    [ "$status" -eq 0 ]
    [[ $output == *thaw-left-over* ]]
    for command in enrol run inspect freeze thaw-left-over; do
        run "$agent" "$command" --help
        [ "$status" -eq 0 ]
        [[ $output == Usage:*"$command"* ]]
    done
}

@test "wrong usage is exit 2" {
    run "$agent"
    [ "$status" -eq 2 ]
    run "$agent" nonsense
    [ "$status" -eq 2 ]
    run "$agent" run --nonsense
    [ "$status" -eq 2 ]
    run "$agent" run too many
    [ "$status" -eq 2 ]
    run "$agent" enrol --controller localhost:1
    [ "$status" -eq 2 ]
    run "$agent" freeze
    [ "$status" -eq 2 ]
}

@test "an unknown option of the configuration is an error that names it" {
    run "$agent" run --config /dev/null -o agent.nonsense=1
    [ "$status" -eq 1 ]
    [[ $output == *nonsense* ]]
}

@test "nothing left over is fine" {
    run "$agent" thaw-left-over --config /dev/null -o agent.runtime="$folder/run"
    [ "$status" -eq 0 ]
}

@test "a list that is none of ours thaws nothing" {
    mkdir "$folder/run"
    echo garbage >"$folder/run/frozen"
    run "$agent" thaw-left-over --config /dev/null -o agent.runtime="$folder/run"
    [ "$status" -eq 0 ]
}

@test "the guest is shown, and its JSON is JSON" {
    run "$agent" inspect
    [ "$status" -eq 0 ]
    [[ $output == *"File systems"* ]]
    "$agent" inspect --json | python3 -c 'import json,sys; d=json.load(sys.stdin); assert d["devices"] and len(d["digest"]) == 64'
}

@test "an image is shown with what opens it" {
    [ -d "$corpus" ] || skip "no corpus"
    xz -dc "$corpus/a-luks1-multi.img.xz" >"$folder/image"
    run "$agent" inspect "$folder/image"
    [ "$status" -eq 0 ]
    [[ $output == *LUKS1* ]]
    [[ $output == *"keyslot 0"* ]]
    "$agent" inspect --json "$folder/image" | python3 -c 'import json,sys; v=json.load(sys.stdin)["images"][0]["volumes"][0]; assert v["kind"] == "LUKS1" and v["header"]["protectors"]'
}

@test "a file that is not there is an error" {
    run "$agent" inspect "$folder/none"
    [ "$status" -eq 1 ]
    [[ $output == *"$folder/none"* ]]
}
