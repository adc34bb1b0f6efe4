/**
 * A person's terminal: a real tmux on a socket of its own, and in it a shell on a small machine, with its own network, /run
 * and /etc, on which no other process is seen. Nothing of it outlives `close`.
 */
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"
import { executable } from "./executable.ts"

const PATIENCE_MILLIS = 20_000
const POLL_MILLIS = 25
/** Lines that have gone off the top and can still be captured. */
const HISTORY = 1000
const PROMPT = /^\[\d+\] [#$]$/

export const NEEDS = { root: true, programs: ["tmux", "unshare", "ip", "ping", "setpriv"] } as const

/** `$1` is the folder; the rest is run as the shell. What fails here is seen on the screen. */
const MACHINE = `set -e
mount -t tmpfs tmpfs /run
mkdir /run/up /run/work /run/bin /run/home /run/dev.firezone.client
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/up,workdir=/run/work /etc
rm -rf /etc/dev.firezone.client /etc/resolv.conf
mount --bind "$1/control" /run/dev.firezone.client
cp "$1/firezone-headless-client" /run/bin
[ ! -f "$1/prepare" ] || . "$1/prepare"
ip link set lo up
cd /run/home
shift
exec "$@"
`

// The checkout may be in a folder that only root may enter.
const NOBODY = [
  "setpriv",
  "--reuid=65534",
  "--regid=65534",
  "--clear-groups",
  "--inh-caps=+dac_read_search",
  "--ambient-caps=+dac_read_search"
]

export interface TerminalOptions {
  readonly columns?: number
  readonly rows?: number
  /** Runs the shell as a user without rights. */
  readonly asNobody?: boolean
  readonly env?: Readonly<Record<string, string>>
  /** Shell commands that furnish the machine, before the shell starts. */
  readonly prepare?: string
}

export interface Terminal {
  /** What is `/run/dev.firezone.client` in there. */
  readonly controlFolder: string
  /** Types text, without Enter. */
  readonly type: (text: string) => Promise<void>
  /** Presses a key by tmux's name for it, such as `Enter`. */
  readonly press: (key: string) => Promise<void>
  /** Types a command line, and waits until the prompt, which shows the exit code, is back. */
  readonly run: (line: string) => Promise<void>
  readonly resize: (columns: number, rows: number) => Promise<void>
  /** What is seen now, a line a row, without spaces at the ends and without the empty rows below. */
  readonly seen: () => Promise<string>
  /** With what has gone off the top. */
  readonly everything: () => Promise<string>
  /** As `everything`, with its colours: `{32}` stands for an escape sequence. */
  readonly coloured: () => Promise<string>
  /** Waits until `holds` is true of what is seen, and returns that. */
  readonly until: (what: string, holds: (seen: string) => boolean) => Promise<string>
  /** The modes that a program might leave behind. */
  readonly modes: () => Promise<{ readonly cursor: boolean; readonly alternate: boolean; readonly wrap: boolean }>
  readonly close: () => Promise<void>
}

const exec = promisify(execFile)

const prompts = (text: string): number => text.split("\n").filter((line) => /^\[\d+\] [#$]/.test(line)).length

export const openTerminal = async (options: TerminalOptions = {}): Promise<Terminal> => {
  const { asNobody = false, columns = 80, env = {}, prepare, rows = 24 } = options
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-screen-"))
  fs.chmodSync(folder, 0o711)
  const controlFolder = path.join(folder, "control")
  fs.mkdirSync(controlFolder, { mode: 0o755 })
  fs.writeFileSync(path.join(folder, "machine"), MACHINE)
  fs.writeFileSync(
    path.join(folder, "firezone-headless-client"),
    `#!/bin/sh\nexec '${process.execPath}' '${executable}' "$@"\n`,
    { mode: 0o755 }
  )
  if (prepare !== undefined) fs.writeFileSync(path.join(folder, "prepare"), prepare)

  const tmux = async (...args: ReadonlyArray<string>): Promise<string> =>
    (await exec("tmux", ["-S", path.join(folder, "tmux"), ...args], {
      env: { PATH: process.env["PATH"], LANG: "C.UTF-8", LC_ALL: "C.UTF-8" }
    })).stdout
  const shell = [
    ...(asNobody ? NOBODY : []),
    "env",
    "-i",
    `PATH=/run/bin:${process.env["PATH"] ?? ""}`,
    "HOME=/run/home",
    "TERM=screen-256color",
    "LANG=C.UTF-8",
    `PS1=[$?] ${asNobody ? "$" : "#"} `,
    ...Object.entries(env).map(([name, value]) => `${name}=${value}`),
    "sh",
    "-i"
  ]
  await tmux(
    ...["-f", "/dev/null", "set-option", "-g", "status", "off", ";"],
    ...["set-option", "-g", "history-limit", String(HISTORY), ";", "set-option", "-g", "remain-on-exit", "on", ";"],
    ...["new-session", "-d", "-x", String(columns), "-y", String(rows)],
    ...["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"],
    ...["sh", path.join(folder, "machine"), folder, ...shell]
  )

  const capture = async (...args: ReadonlyArray<string>): Promise<string> =>
    (await tmux("capture-pane", "-p", ...args)).split("\n").map((line) => line.trimEnd()).join("\n").trimEnd()
  const seen = () => capture()
  const everything = () => capture("-S", "-")
  const waitUntil = async (what: string, look: () => Promise<string>, holds: (text: string) => boolean) => {
    const deadline = performance.now() + PATIENCE_MILLIS
    for (;;) {
      const text = await look()
      if (holds(text)) return text
      if (performance.now() > deadline) throw new Error(`waited in vain for ${what}; the screen shows:\n${text}`)
      await new Promise((resolve) => {
        setTimeout(resolve, POLL_MILLIS)
      })
    }
  }
  const prompted = (count: number) => (text: string) =>
    prompts(text) >= count && PROMPT.test(text.split("\n").at(-1) ?? "")
  const press = async (key: string) => void await tmux("send-keys", key)
  const type = async (text: string) => void await tmux("send-keys", "-l", text)
  await waitUntil("a prompt", everything, prompted(1))
  return {
    controlFolder,
    type,
    press,
    run: async (line) => {
      const before = prompts(await everything())
      await type(line)
      await press("Enter")
      await waitUntil(`the end of ${line}`, everything, prompted(before + 1))
    },
    resize: async (columns, rows) => void await tmux("resize-window", "-x", String(columns), "-y", String(rows)),
    seen,
    everything,
    coloured: async () => (await capture("-e", "-S", "-")).replaceAll(/\x1b\[([\d;]*)m/g, "{$1}"),
    until: (what, holds) => waitUntil(what, seen, holds),
    modes: async () => {
      const [cursor, alternate, wrap] = (await tmux("display", "-p", "#{cursor_flag} #{alternate_on} #{wrap_flag}"))
        .trim().split(" ")
      return { cursor: cursor === "1", alternate: alternate === "1", wrap: wrap === "1" }
    },
    close: async () => {
      await tmux("kill-server").catch(() => "")
      fs.rmSync(folder, { recursive: true, force: true })
    }
  }
}
