/** What is in a bundle, and what must not be. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { execFileSync } from "node:child_process"
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll } from "vitest"
import * as BundleStoreFile from "../../src/layers/bundle/BundleStoreFile.ts"
import { redact } from "../../src/programs/bundle/redact.ts"
import { BundleStore } from "../../src/services/BundleStore.ts"
import { executable, run } from "../support/executable.ts"
import { describeWith } from "../support/requires.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-bundle-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))

const TOKEN = `nonce${randomBytes(6).toString("hex")}.SFMyNTY.${randomBytes(60).toString("base64url")}`
const KEY = "wIWJ2PmUuz6EwGYeTfcRTfSyXYMJl4Pr24+8Vqq3sXE="

describe("what is taken out", () => {
  const cases: ReadonlyArray<readonly [string, string]> = [
    [`before ${TOKEN} after`, "before [removed] after"],
    [`url?token=${encodeURIComponent(TOKEN)}&x=1`, "url?token=[removed]&x=1"],
    ["FIREZONE_TOKEN=abc", "FIREZONE_TOKEN=[removed]"],
    ["FIREZONE_TOKEN=\"a b c\" next", "FIREZONE_TOKEN=\"[removed]\" next"],
    ["Environment=FIREZONE_TOKEN=abc OTHER=1", "Environment=FIREZONE_TOKEN=[removed] OTHER=1"],
    [`{"password": "two words","x":1}`, `{"password": "[removed]","x":1}`],
    [`"{\\"psk\\":\\"abc\\"}"`, `"{\\"psk\\":\\"[removed]\\"}"`],
    [`key ${KEY}.`, "key [removed]."],
    [`preshared_key=${KEY}`, "preshared_key=[removed]"],
    ["Authorization: Bearer abc.def-ghi", "Authorization: [removed]"],
    ["sent bearer abc.def-ghi+j==", "sent [removed]"],
    ["https://user:pass@example.com/x", "https://[removed]@example.com/x"],
    ["a eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln b", "a [removed] b"],
    ["token: 7fa9c1d2e3", "token: [removed]"],
    ["SetCredential=firezone-token:abc", "SetCredential=[removed]"],
    ["Environment=\"DB_PASSWORD=two words\" B=1", "Environment=\"DB_PASSWORD=[removed]\" B=1"],
    ["OTEL_EXPORTER_OTLP_HEADERS=x-maker-team=abc,x-other=def B=1", "OTEL_EXPORTER_OTLP_HEADERS=[removed] B=1"],
    ["OTEL_EXPORTER_OTLP_METRICS_HEADERS='x-maker=a b'", "OTEL_EXPORTER_OTLP_METRICS_HEADERS='[removed]'"],
    [
      "Environment=\"OTEL_EXPORTER_OTLP_HEADERS=x-maker=a b,c=d\"",
      "Environment=\"OTEL_EXPORTER_OTLP_HEADERS=[removed]\""
    ],
    ["x".repeat(120), "[removed]"]
  ]
  it("is every secret, and what looks like one", () => {
    for (const [text, expected] of cases) {
      const { count, text: found } = redact(text, [TOKEN])
      assert.strictEqual(found, expected)
      assert.isAtLeast(count, 1)
      assert.strictEqual(redact(found, [TOKEN]).count, 0, "once is enough")
    }
    // A known one of any form.
    assert.strictEqual(redact("it is hunter-22 there", ["hunter-22"]).text, "it is [removed] there")
    assert.strictEqual(redact("%22a%2Fb1234%22", ["\"a/b1234\""]).text, "[removed]")
  })
  it("is nothing that a person needs", () => {
    const texts = [
      "no token: the variable FIREZONE_TOKEN is not set and the file /etc/dev.firezone.client/token does not exist",
      "FIREZONE_TOKEN_PATH=/run/credentials/x/firezone-token",
      "LoadCredential=firezone-token:/etc/dev.firezone.client/token",
      "peer 5c827b42-f8de-4c79-a7bd-199104bfa202 at [2001:db8:20::2]:52625",
      "25746dc26c1cc478780348a72316d3f4c2869a29b2a4836b38bc2ad3c3d69e8c",
      "wss://api.firezone.dev/ 100.64.0.0/11 fd00:2021:1111:8000::/107 dev tun-firezone"
    ]
    for (const text of texts) assert.deepStrictEqual(redact(text, []), { text, count: 0 })
    assert.strictEqual(redact("a short one", ["a"]).count, 0)
  })
  it("takes no long time, whatever a log holds", () => {
    for (const text of ["a.", "eyJ", "://", "token", "token: x", "SFMyNTY", "A1"]) {
      const began = performance.now()
      redact(text.repeat(1_000_000 / text.length), [TOKEN])
      // A quadratic one would take minutes.
      assert.isBelow(performance.now() - began, 5000, text)
    }
  })
})

describe("where a bundle goes", () => {
  const store = Effect.provide(BundleStore, BundleStoreFile.layer)
  it.live("is a file for its owner alone, which replaces nothing unless told", () =>
    Effect.gen(function*() {
      const file = path.join(folder, "one.tar.gz")
      const { free, write } = yield* store
      yield* free(file)
      yield* write(file, Uint8Array.of(1), { replaces: false })
      assert.strictEqual(fs.statSync(file).mode & 0o777, 0o600)
      for (const attempt of [free(file), write(file, Uint8Array.of(2), { replaces: false })]) {
        const { message } = yield* Effect.flip(attempt)
        assert.include(message, file)
        assert.include(message, "--force")
      }
      assert.deepStrictEqual([...fs.readFileSync(file)], [1])
      const kept = path.join(folder, "kept")
      fs.writeFileSync(kept, "kept")
      fs.rmSync(file)
      fs.symlinkSync(kept, file)
      yield* write(file, Uint8Array.of(3), { replaces: true })
      assert.strictEqual(fs.readFileSync(kept, "utf8"), "kept", "a link is replaced, not followed")
      assert.strictEqual(fs.lstatSync(file).mode & 0o777, 0o600)
      const nowhere = yield* Effect.flip(write(path.join(folder, "none", "x"), Uint8Array.of(1), { replaces: false }))
      assert.include(nowhere.message, "ENOENT")
      assert.deepStrictEqual(fs.readdirSync(folder).filter((name) => name.startsWith(".bundle")), [])
    }))
  it.live("takes the ends of log files, the newest first, and follows no links", () =>
    Effect.gen(function*() {
      const logs = path.join(folder, "tails")
      fs.mkdirSync(logs)
      for (const [index, name] of ["old.log", "middle.log", "new.log"].entries()) {
        fs.writeFileSync(path.join(logs, name), `${name} one\n${name} two\n`)
        fs.utimesSync(path.join(logs, name), 1000 + index, 1000 + index)
      }
      fs.symlinkSync("/etc/passwd", path.join(logs, "link.log"))
      fs.writeFileSync(path.join(logs, "other.txt"), "no log\n")
      const read = (perFile: number, total: number) =>
        Effect.flatMap(store, ({ logs: of }) => of(logs, { perFile, total }))
      const all = yield* read(1000, 1000)
      assert.deepStrictEqual(all.tails.map(({ name }) => name), ["new.log", "middle.log", "old.log"])
      const cut = yield* read(14, 20)
      assert.deepStrictEqual(cut.tails.map(({ text }) => text), ["new.log two\n", ""])
      assert.strictEqual(cut.leftOut, 1)
      assert.strictEqual((yield* read(24, 24)).leftOut, 2)
    }))
})

describeWith({ root: true }, "a log file that cannot be read", () => {
  it.live("takes no other with it", () =>
    Effect.gen(function*() {
      const logs = path.join(folder, "others")
      fs.mkdirSync(logs)
      fs.chmodSync(folder, 0o755)
      fs.writeFileSync(path.join(logs, "ours.log"), "kept\n")
      fs.writeFileSync(path.join(logs, "root.log"), "no\n", { mode: 0o600 })
      const { logs: of } = yield* Effect.provide(BundleStore, BundleStoreFile.layer)
      const { leftOut, tails } = yield* Effect.acquireUseRelease(
        Effect.sync(() => process.seteuid?.(65_534)),
        () => of(logs, { perFile: 100, total: 100 }),
        () => Effect.sync(() => process.seteuid?.(0))
      )
      assert.deepStrictEqual({ leftOut, names: tails.map(({ name }) => name) }, { leftOut: 1, names: ["ours.log"] })
    }))
})

describeWith({ programs: ["tar", "grep"] }, "debug bundle", () => {
  const logs = path.join(folder, "logs")
  const env = {
    PATH: process.env["PATH"] ?? "",
    FIREZONE_TOKEN: TOKEN,
    FIREZONE_CONTROL_SOCKET: path.join(folder, "none.sock"),
    FIREZONE_STATE_DIR: path.join(folder, "state"),
    FIREZONE_API_URL: "ws://127.0.0.1:9/",
    LOG_DIR: logs
  }

  it("is one tar with what there is, and without the token", async () => {
    fs.mkdirSync(logs)
    fs.writeFileSync(path.join(logs, "client.log"), `{"message":"token=${TOKEN}"}\nand ${encodeURIComponent(TOKEN)}\n`)
    const file = path.join(folder, "it.tar.gz")
    const { code, stderr, stdout } = await run(["debug", "bundle", file], env)
    assert.strictEqual(code, 0, stderr)
    assert.strictEqual(stdout, "")
    assert.include(stderr, file)
    assert.include(stderr, "Look at it before you send it")
    assert.strictEqual(fs.statSync(file).mode & 0o777, 0o600)

    const target = path.join(folder, "unpacked")
    fs.mkdirSync(target)
    execFileSync("tar", ["-xzf", file, "--no-same-owner", "--strip-components=1", "-C", target])
    const manifest = JSON.parse(fs.readFileSync(path.join(target, "manifest.json"), "utf8")) as {
      readonly version: number
      readonly contents: ReadonlyArray<{ readonly name: string; readonly bytes: number; readonly removed: number }>
      readonly leftOut: ReadonlyArray<{ readonly name: string; readonly why: string }>
    }
    assert.strictEqual(manifest.version, 1)
    const names = manifest.contents.map(({ name }) => name)
    for (const name of ["client/version.json", "client/settings.json", "client/doctor.json", "logs/client.log"]) {
      assert.include(names, name)
    }
    for (const { bytes, name } of manifest.contents) {
      assert.strictEqual(fs.statSync(path.join(target, name)).size, bytes)
    }
    assert.strictEqual(manifest.contents.find(({ name }) => name === "logs/client.log")?.removed, 2)
    const status = manifest.leftOut.find(({ name }) => name === "client/status.json")
    assert.include(status?.why, "no client is running")
    const doctor = JSON.parse(fs.readFileSync(path.join(target, "client/doctor.json"), "utf8")) as {
      readonly checks: unknown
    }
    assert.isArray(doctor.checks)
    // Any part of it that is long enough to be one.
    for (const secret of [TOKEN, TOKEN.split(".").at(-1) ?? "?", TOKEN.slice(0, 16)]) {
      const found = (() => {
        try {
          return execFileSync("grep", ["-rlF", secret, target], { encoding: "utf8" })
        } catch {
          return ""
        }
      })()
      assert.strictEqual(found, "")
    }
  }, 90_000)

  it("replaces no file, and does no work for one that is there", async () => {
    const file = path.join(folder, "there.tar.gz")
    fs.writeFileSync(file, "mine")
    const { code, stderr } = await run(["debug", "bundle", file], env)
    assert.strictEqual(code, 1)
    assert.include(stderr, "--force")
    assert.strictEqual(fs.readFileSync(file, "utf8"), "mine")
  }, 30_000)

  it("goes to stdout, whole", () => {
    const out = path.join(folder, "stdout.tar.gz")
    execFileSync("sh", [
      "-c",
      `"$1" "$2" debug bundle - 2>/dev/null | cat > "$3"`,
      "sh",
      process.execPath,
      executable,
      out
    ], {
      env
    })
    const list = execFileSync("tar", ["-tzf", out], { encoding: "utf8" })
    assert.include(list, "manifest.json")
  }, 90_000)

  it("explains itself", async () => {
    for (const args of [["debug", "--help"], ["debug"], ["debug", "bundle", "--help"]]) {
      const { code, stdout } = await run(args, env)
      assert.strictEqual(code, 0)
      assert.include(stdout, "manifest.json")
    }
  }, 30_000)
})
