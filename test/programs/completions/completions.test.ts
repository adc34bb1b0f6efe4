import * as Command from "@effect/cli/Command"
import * as NodeContext from "@effect/platform-node/NodeContext"
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, beforeAll } from "vitest"
import { command as parser, NAME } from "../../../src/programs/cli.ts"
import { script } from "../../../src/programs/completions/command.ts"
import { commandLine, everyCommand, namesOf, SHELLS } from "../../../src/programs/completions/commandLine.ts"
import { helpFor, rootHelp } from "../../../src/programs/help.ts"
import { describeWith } from "../../support/requires.ts"
import { offers } from "./shells.ts"

/** Of host spec section 2.1, and those that only a person who looks for a fault needs. */
const HIDDEN_OPTIONS = new Set(
  ("--api-url -u --check --exit --inc-buf --aead --udp-send-buffer-size --udp-recv-buffer-size --metrics "
    + "--otlp-grpc-endpoint").split(" ")
)
const HIDDEN_COMMANDS = new Set(["standalone"])
/** Seen by `run` before the parser. */
const BEFORE_THE_PARSER = new Set(["lab", "help"])
const LIBRARY_OPTIONS = new Set("--completions --log-level --wizard --help -h --version -V".split(" "))

/** What the parser takes: for each command its options and commands, out of the completions that its library makes. */
const parsed = Effect.map(
  Command.getBashCompletions(parser(undefined), NAME).pipe(Effect.provide(NodeContext.layer)),
  (lines) => {
    const found = new Map<string, ReadonlySet<string>>()
    lines.join("\n").replaceAll(/^ {8}([\w-]+)\)\n {12}opts="([^"]*)"/gm, (whole, name: string, words: string) => {
      const key = name.replaceAll("__", " ").split(" ").slice(name === NAME ? 1 : 3).join(" ")
      found.set(key, new Set(words.split(" ").filter((word) => word !== "" && !LIBRARY_OPTIONS.has(word))))
      return whole
    })
    return found
  }
)

const sorted = (words: Iterable<string>): ReadonlyArray<string> => [...words].toSorted()

describe("what shells complete", () => {
  it.effect("is what the parser takes, and is not hidden", () =>
    Effect.gen(function*() {
      const accepted = yield* parsed
      const commands = everyCommand(commandLine).filter(({ path: [first = ""] }) => !BEFORE_THE_PARSER.has(first))
      for (const { path, spec } of commands) {
        const known = accepted.get(path.join(" ").replaceAll("-", " "))
        assert.isDefined(known, path.join(" "))
        const visible = [...known ?? []].filter((word) =>
          !HIDDEN_COMMANDS.has(word)
          && !(path.length === 0 && HIDDEN_OPTIONS.has(word))
        )
        const described = [
          ...spec.options.flatMap(namesOf).filter((name) => !LIBRARY_OPTIONS.has(name)),
          ...(spec.commands ?? []).map(({ name }) => name).filter((name) => !BEFORE_THE_PARSER.has(name))
        ]
        assert.deepStrictEqual(sorted(described), sorted(visible), path.join(" "))
      }
    }))

  it("is what --help shows", () => {
    const help = rootHelp("1.2.3", "auto")
    for (const name of commandLine.options.flatMap(namesOf)) assert.include(help, name)
    for (const { name } of commandLine.commands ?? []) {
      if (name !== "help") assert.match(help, new RegExp(`^ {2}${name} `, "m"))
    }
    for (const name of [...HIDDEN_OPTIONS].filter((name) => name !== "--metrics")) {
      assert.notMatch(help, new RegExp(`${name}[ =,]`))
    }
    for (const { name, options } of commandLine.commands ?? []) {
      if (name === "lab") continue
      const own = helpFor([name], "1.2.3")
      if (own === helpFor([], "1.2.3")) continue
      for (const option of options.flatMap(namesOf)) {
        if (!LIBRARY_OPTIONS.has(option)) assert.include(own, option, name)
      }
    }
  })

  it("has words that no shell misreads", () => {
    for (const { spec } of everyCommand(commandLine)) {
      for (const { about } of [spec, ...spec.options]) assert.match(about, /^[\w ,-]+$/)
    }
  })
})

const CASES: ReadonlyArray<readonly [line: string, expected: ReadonlyArray<string>]> = [
  ["", (commandLine.commands ?? []).map(({ name }) => name)],
  ["st", ["status"]],
  ["--dns-control ", ["auto", "disabled", "etc-resolv-conf", "systemd-resolved"]],
  ["--dns-control etc", ["etc-resolv-conf"]],
  ["--f", ["--firezone-id", "--firezone-name", "--flow-logs"]],
  ["--api", []],
  ["-i explain ro", ["route"]],
  ["--tun-name status do", ["doctor"]],
  ["--tun-name x status --w", ["--watch"]],
  ["--log-dir=/tmp status --j", ["--json"]],
  ["route ", ["explain"]],
  ["route explain --", ["--help", "--json"]],
  ["sign-out --", ["--force", "--help"]],
  ["doctor --stun 192.0.2.1 --s", ["--stun"]],
  ["completions ", ["bash", "fish", "zsh"]],
  ["lab up --without ", ["client", "gateway", "relay"]],
  ["lab r", ["run"]],
  ["debug ", ["bundle"]],
  ["debug bundle tok", ["token file"]],
  ["debug bundle --", ["--force", "--help"]],
  ["--log-dir fold", ["folder of logs/"]],
  ["--token-path tok", ["token file"]]
]

for (const shell of SHELLS) {
  describeWith({ programs: [shell] }, `completion in ${shell}`, () => {
    let folder = ""
    let file = ""
    beforeAll(() => {
      folder = fs.mkdtempSync(path.join(os.tmpdir(), `fz-completions-${shell}-`))
      file = path.join(folder, `completions.${shell}`)
      fs.writeFileSync(file, script(shell))
      fs.mkdirSync(path.join(folder, "folder of logs"))
      fs.writeFileSync(path.join(folder, "token file"), "")
      // zsh goes on to files where there is no folder, and its driver lets nothing be added.
      if (shell !== "zsh") fs.writeFileSync(path.join(folder, "folder-like file"), "")
    })
    afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

    it("offers what fits", () => {
      for (const [line, expected] of CASES) {
        // Shells quote and mark what they offer in ways of their own.
        const plain = offers(shell, file, line, folder).map((offer) => offer.replaceAll("\\", "").replace(/\/$/, ""))
        assert.deepStrictEqual(plain, sorted(expected.map((word) => word.replace(/\/$/, ""))), `"${line}"`)
      }
    }, 120_000)

    it("keeps what it completes after an equals sign", () => {
      const found = offers(shell, file, "--dns-control=sys", folder).map((offer) => offer.replace("--dns-control=", ""))
      assert.deepStrictEqual(found, ["systemd-resolved"])
    }, 60_000)

    it("offers the interfaces of this machine", () => {
      const found = offers(shell, file, "--tun-name l", folder)
      assert.include(found, "lo")
    }, 60_000)
  })
}
