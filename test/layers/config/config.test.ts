import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redacted from "effect/Redacted"
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterEach, beforeEach } from "vitest"
import * as DeviceIdentityHost from "../../../src/layers/config/DeviceIdentityHost.ts"
import * as TokenStoreFile from "../../../src/layers/config/TokenStoreFile.ts"
import { ClientConfig } from "../../../src/services/ClientConfig.ts"
import { DeviceIdentity } from "../../../src/services/DeviceIdentity.ts"
import { TokenStore } from "../../../src/services/TokenStore.ts"
import { describeWith } from "../../support/requires.ts"
import { settings } from "../../support/settings.ts"

let folder = ""
beforeEach(() => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-config-"))
})
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }))

const SECRET = ".very-secret-token"
const tokenPath = (): string => path.join(folder, "etc", "token")
const store = (variable?: string) =>
  Layer.provide(
    TokenStoreFile.layer(variable === undefined ? undefined : Redacted.make(variable)),
    Layer.succeed(ClientConfig, settings({ tokenPath: tokenPath() }))
  )
const read = (variable?: string) =>
  Effect.flatMap(TokenStore, (tokens) => tokens.read).pipe(Effect.map(Redacted.value), Effect.provide(store(variable)))
const failure = (variable?: string) => Effect.map(Effect.flip(read(variable)), (error) => error.message)

const put = (content: string | Uint8Array, mode: number, owner = 0): void => {
  fs.mkdirSync(path.dirname(tokenPath()), { recursive: true })
  fs.writeFileSync(tokenPath(), content)
  fs.chmodSync(tokenPath(), mode)
  fs.chownSync(tokenPath(), owner, owner)
}

describe("token from the variable", () => {
  it.effect("is used without any whitespace", () =>
    Effect.map(read(` ${SECRET.slice(0, 3)}\n${SECRET.slice(3)}\n`), (token) => assert.strictEqual(token, SECRET)))
  it.effect("is refused, and not shown, with characters that no token has", () =>
    Effect.map(failure(`${SECRET}\u00e4`), (text) => {
      assert.match(text, /FIREZONE_TOKEN: holds characters that no token has/)
      assert.notInclude(text, SECRET)
    }))
  it.effect("is refused when empty", () =>
    Effect.map(failure(" "), (text) => assert.match(text, /FIREZONE_TOKEN: is empty/)))
  it.effect("names both places when there is neither", () =>
    Effect.map(failure(), (text) => {
      assert.include(text, "FIREZONE_TOKEN")
      assert.include(text, tokenPath())
    }))
})

describeWith({ root: true }, "token file", () => {
  it.effect("is read without whitespace, with mode 0600 and 0400 (host 18.3)", () =>
    Effect.gen(function*() {
      for (const mode of [0o600, 0o400]) {
        put(`${SECRET.slice(0, 3)}\n${SECRET.slice(3)}\n`, mode)
        assert.strictEqual(yield* read(), SECRET)
        fs.rmSync(tokenPath())
      }
    }))
  it.effect("is refused when others can read it, when foreign, empty, binary, long or a folder", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<readonly [() => void, RegExp]> = [
        [() => put(SECRET, 0o644), /readable by root alone.*0644.*chmod 0600/],
        [() => put(SECRET, 0o600, 65534), /belong to root.*65534:65534.*chown/],
        [() => put("  \n", 0o600), /is empty/],
        [() => put(Uint8Array.of(0xff, 0xfe, 0x00), 0o600), /not UTF-8/],
        [() => put(`${SECRET}\u0000b`, 0o600), /characters that no token has/],
        [() => put("x".repeat(70_000), 0o600), /too long/],
        [() => fs.mkdirSync(tokenPath(), { recursive: true }), /not a regular file/]
      ]
      for (const [prepare, expected] of cases) {
        prepare()
        const text = yield* failure()
        assert.match(text, expected)
        assert.include(text, tokenPath())
        assert.notInclude(text, SECRET)
        fs.rmSync(tokenPath(), { recursive: true })
      }
    }))
  it.effect("is followed through a link, and checked where it leads", () =>
    Effect.gen(function*() {
      const target = path.join(folder, "target")
      fs.mkdirSync(path.dirname(tokenPath()))
      fs.symlinkSync(target, tokenPath())
      assert.match(yield* failure(), /FIREZONE_TOKEN is not set and the file .*etc\/token does not exist/)
      fs.writeFileSync(target, SECRET, { mode: 0o600 })
      assert.strictEqual(yield* read(), SECRET)
      fs.chmodSync(target, 0o604)
      assert.match(yield* failure(), /mode 0604/)
      fs.rmSync(tokenPath())
      fs.symlinkSync(tokenPath(), tokenPath())
      assert.match(yield* failure(), /cannot be read \(ELOOP\)/)
    }))
  it.effect("that is a named pipe is refused without waiting for its other end", () =>
    Effect.gen(function*() {
      fs.mkdirSync(path.dirname(tokenPath()))
      execFileSync("mkfifo", ["-m", "600", tokenPath()])
      assert.match(yield* failure(), /not a regular file/)
    }))
  it.effect("may have no mode bit for others, and no group but root", () =>
    Effect.gen(function*() {
      put(SECRET, 0o600)
      for (const bit of [0o100, 0o040, 0o020, 0o010, 0o004, 0o002, 0o001]) {
        fs.chmodSync(tokenPath(), 0o600 | bit)
        assert.match(yield* failure(), /readable by root alone/, bit.toString(8))
      }
      fs.chmodSync(tokenPath(), 0o600)
      fs.chownSync(tokenPath(), 0, 5)
      assert.match(yield* failure(), /belongs to 0:5/)
    }))
  it.effect("that this user cannot reach says so", () =>
    Effect.gen(function*() {
      put(SECRET, 0o600)
      fs.chmodSync(folder, 0o700)
      yield* Effect.acquireUseRelease(
        Effect.sync(() => process.seteuid?.(65_534)),
        () =>
          Effect.gen(function*() {
            assert.match(yield* failure(), /cannot be read \(EACCES\).*Run as root, or set FIREZONE_TOKEN/)
            const tokens = yield* TokenStore
            assert.match((yield* Effect.flip(tokens.remove)).message, /EACCES/)
          }),
        () => Effect.sync(() => process.seteuid?.(0))
      )
    }).pipe(Effect.provide(Layer.suspend(() => store()))))
  it.effect("is replaced whole or not at all, and leaves nothing else behind", () =>
    Effect.gen(function*() {
      const tokens = yield* TokenStore
      put("old", 0o644)
      yield* tokens.write(Redacted.make(SECRET))
      assert.strictEqual(fs.statSync(tokenPath()).mode & 0o777, 0o600)
      assert.strictEqual(yield* read(), SECRET)
      fs.rmSync(tokenPath())
      fs.mkdirSync(path.join(tokenPath(), "full"), { recursive: true })
      const error = yield* Effect.flip(tokens.write(Redacted.make(SECRET)))
      assert.include(error.message, tokenPath())
      assert.notInclude(error.message, SECRET)
      assert.deepStrictEqual(fs.readdirSync(path.dirname(tokenPath())), ["token"])
    }).pipe(Effect.provide(Layer.suspend(() => store()))))
  it.effect("is written for root alone, read back byte by byte, and removed once (host 18.3)", () =>
    Effect.gen(function*() {
      const tokens = yield* TokenStore
      yield* tokens.write(Redacted.make(SECRET))
      assert.strictEqual(fs.readFileSync(tokenPath(), "utf8"), SECRET)
      assert.strictEqual(fs.statSync(tokenPath()).mode & 0o777, 0o600)
      assert.deepStrictEqual(fs.readdirSync(path.dirname(tokenPath())), ["token"])
      assert.strictEqual(yield* Effect.map(tokens.read, Redacted.value), SECRET)
      assert.isTrue(yield* tokens.remove)
      assert.isFalse(yield* tokens.remove)
    }).pipe(Effect.provide(Layer.suspend(() => store()))))
})

describe("device id", () => {
  const facts = (id?: string) =>
    Effect.flatMap(DeviceIdentity, (identity) => identity.facts).pipe(Effect.provide(
      Layer.provide(
        DeviceIdentityHost.layerWith({ machineId: path.join(folder, "machine-id"), dmi: path.join(folder, "dmi") }),
        Layer.succeed(ClientConfig, settings({ id, stateDir: path.join(folder, "state") }))
      )
    ))
  const idFile = (): string => path.join(folder, "state", "firezone-id.json")

  it("follows the machine id (vector of host spec 3.3) (host 18.5)", () =>
    assert.strictEqual(
      DeviceIdentityHost.idFromMachineId(Buffer.from("0123456789abcdef0123456789abcdef\n")),
      "25746dc26c1cc478780348a72316d3f4c2869a29b2a4836b38bc2ad3c3d69e8c"
    ))
  it.effect("takes the configured one first, then the file, then the machine id, then a new one that it keeps (host 18.5)", () =>
    Effect.gen(function*() {
      const made = (yield* facts()).id
      assert.match(made, /^[0-9a-f]{64}$/)
      assert.deepStrictEqual(JSON.parse(fs.readFileSync(idFile(), "utf8")), { id: made })
      assert.strictEqual(fs.statSync(idFile()).mode & 0o777, 0o640)
      fs.writeFileSync(path.join(folder, "machine-id"), "abc\n")
      assert.strictEqual((yield* facts()).id, made)
      assert.strictEqual((yield* facts("mine")).id, "mine")
      fs.rmSync(idFile())
      assert.strictEqual((yield* facts()).id, DeviceIdentityHost.idFromMachineId(Buffer.from("abc\n")))
      assert.isFalse(fs.existsSync(idFile()))
    }))
  it.effect("never replaces a file that it cannot use (host 18.5)", () =>
    Effect.gen(function*() {
      fs.mkdirSync(path.dirname(idFile()))
      fs.writeFileSync(idFile(), "{\"id\": 5}")
      const error = yield* Effect.flip(facts())
      assert.include(error.message, "FIREZONE_ID")
      assert.strictEqual(fs.readFileSync(idFile(), "utf8"), "{\"id\": 5}")
    }))
  it.effect("takes nothing from a machine id that is not one yet", () =>
    Effect.gen(function*() {
      const made = (yield* facts()).id
      for (const content of ["", "\n", "uninitialized\n"]) {
        fs.writeFileSync(path.join(folder, "machine-id"), content)
        fs.rmSync(idFile(), { force: true })
        const { id } = yield* facts()
        assert.match(id, /^[0-9a-f]{64}$/)
        assert.notStrictEqual(id, made)
        assert.strictEqual((yield* facts()).id, id) // kept
      }
    }))
  it.effect("is read from the files of older releases, whose mode it tightens", () =>
    Effect.gen(function*() {
      const old = "550e8400-e29b-41d4-a716-446655440000"
      fs.mkdirSync(path.dirname(idFile()))
      fs.writeFileSync(idFile(), JSON.stringify({ id: old, more: [1] }), { mode: 0o666 })
      assert.strictEqual((yield* facts()).id, old) // the login URL turns it into a hash
      assert.strictEqual(fs.statSync(idFile()).mode & 0o777, 0o640)
    }))
  it.effect("is made once, in a folder that only root and its group see", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* facts()).id, (yield* facts()).id)
      assert.strictEqual(fs.statSync(path.dirname(idFile())).mode & 0o777, 0o770)
      assert.deepStrictEqual(fs.readdirSync(path.dirname(idFile())), ["firezone-id.json"])
    }))
  it.effect("is not usable when empty, endless or no text (host 18.5)", () =>
    Effect.gen(function*() {
      fs.mkdirSync(path.dirname(idFile()))
      for (const content of ["", "null", "[]", "{\"id\":\"\"}", `{"id":"${"x".repeat(256)}"}`, "\u0000"]) {
        fs.writeFileSync(idFile(), content)
        assert.match((yield* Effect.flip(facts())).message, /device id: none is configured.*not usable.*FIREZONE_ID/)
      }
    }))
  it.effect("is waited for at no pipe, and gives its mode to nothing that a link leads to", () =>
    Effect.gen(function*() {
      fs.mkdirSync(path.dirname(idFile()))
      execFileSync("mkfifo", [idFile()])
      assert.include((yield* Effect.flip(facts())).message, "FIREZONE_ID")
      fs.rmSync(idFile())
      const elsewhere = path.join(folder, "elsewhere.json")
      fs.writeFileSync(elsewhere, "{\"id\":\"theirs\"}", { mode: 0o600 })
      fs.symlinkSync(elsewhere, idFile())
      assert.strictEqual((yield* facts()).id, "theirs")
      assert.strictEqual(fs.statSync(elsewhere).mode & 0o777, 0o600)
    }))
  it.effect("reports serial and uuid, and leaves out placeholders", () =>
    Effect.gen(function*() {
      fs.mkdirSync(path.join(folder, "dmi"))
      fs.writeFileSync(path.join(folder, "dmi", "product_serial"), "ABC\n")
      fs.writeFileSync(path.join(folder, "dmi", "product_uuid"), "4C4C4544-0042-4410-8054-B4C04F564433\n")
      assert.deepStrictEqual(yield* facts("x"), {
        id: "x",
        serial: "ABC",
        uuid: "4c4c4544-0042-4410-8054-b4c04f564433"
      })
      fs.writeFileSync(path.join(folder, "dmi", "product_serial"), "123456789\n")
      fs.writeFileSync(path.join(folder, "dmi", "product_uuid"), "00000000-0000-0000-0000-000000000000\n")
      assert.deepStrictEqual(yield* facts("x"), { id: "x", serial: undefined, uuid: undefined })
    }))
})
