/** What real shells offer for a line, when Tab is pressed at its end. */
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import type { Shell } from "../../../src/programs/completions/commandLine.ts"

const NAME = "firezone-headless-client"
const FUNCTION = "_firezone_headless_client"

const run = (program: string, args: ReadonlyArray<string>, cwd: string): string =>
  execFileSync(program, args, {
    cwd,
    encoding: "utf8",
    env: { PATH: process.env["PATH"], HOME: cwd, TERM: "dumb" },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 30_000
  })

const linesOf = (text: string): ReadonlyArray<string> =>
  text.split("\n").map((line) => line.trim()).filter((line) => line !== "")

/** Readline splits at `=` as well as at spaces. */
const bash = (script: string, line: string, folder: string): ReadonlyArray<string> => {
  const words = line.split(/ +|(=)/).filter((word) => word !== undefined)
  return linesOf(run("bash", [
    "--norc",
    "--noprofile",
    "-c",
    `source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); ${FUNCTION}; printf '%s\\n' "\${COMPREPLY[@]}"`,
    script,
    ...words
  ], folder))
}

const fish = (script: string, line: string, folder: string): ReadonlyArray<string> =>
  linesOf(run("fish", ["--no-config", "-c", "source $argv[1]; complete -C $argv[2]", script, line], folder)).map(
    (offer) => offer.split("\t", 1)[0] ?? ""
  )

/** Tells what is offered to `compadd`, instead of completing. */
const ZSH_SETUP = `PS1=
fpath=("$FOLDER/site" $fpath)
autoload -Uz compinit && compinit -u -D
setopt no_beep
zstyle ':completion:*' verbose no
bindkey '^I' tell
compadd() {
  local -a hits
  if [[ \${@[1,(i)(-|--)]} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return; fi
  builtin compadd -O hits "$@"
  (( $#hits )) && print -rl -- "OFFER:"\${^hits}
}
tell-offers() { _main_complete; print OVER }
zle -C tell complete-word tell-offers
print REA""DY
`

const ZSH_DRIVER = `zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "FOLDER=\${(q)1}; source \${(q)1}/setup.zsh"
part= seen=
repeat 1000; do zpty -r -t shell part && seen+=$part; [[ $seen == *READY* ]] && break; sleep 0.02; done
zpty -w -n shell "$2"$'\\t'
seen=
repeat 1000; do zpty -r -t shell part && seen+=$part; [[ $seen == *OVER* ]] && break; sleep 0.02; done
zpty -d shell
print -r -- "$seen"
`

/** From a folder of `$fpath`, as it is installed. */
const zsh = (script: string, line: string, folder: string): ReadonlyArray<string> => {
  fs.mkdirSync(path.join(folder, "site"), { recursive: true })
  fs.copyFileSync(script, path.join(folder, "site", `_${NAME}`))
  fs.writeFileSync(path.join(folder, "setup.zsh"), ZSH_SETUP)
  return linesOf(run("zsh", ["-f", "-c", ZSH_DRIVER, "zsh", folder, line], folder)).flatMap((text) =>
    // The first one stands behind the echo of what was typed.
    /OFFER:(.*)$/.exec(text)?.[1] ?? []
  )
}

const shells = { bash, zsh, fish }

/** `arguments_` is what stands after the program's name. Sorted. */
export const offers = (shell: Shell, script: string, arguments_: string, folder: string): ReadonlyArray<string> =>
  [...new Set(shells[shell](script, `${NAME} ${arguments_}`, folder))].toSorted()
