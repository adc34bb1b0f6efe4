/** The executable, where there is no network, and as somebody who may do nothing. */
import { assert, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { spawn } from "node:child_process"
import { DoctorReport, type Verdict } from "../../../src/model/doctor.ts"
import { executable } from "../../support/executable.ts"
import { makeNamespace, type Namespace } from "../../support/netns.ts"
import { describeWith } from "../../support/requires.ts"

const TOKEN = ".a-token-that-nobody-may-see"
/** Ten seconds, on a machine that has other work to do. */
const LIMIT_MILLIS = 25_000

const decode = Schema.decodeUnknownSync(Schema.parseJson(DoctorReport))

const run = (namespace: Namespace, before: ReadonlyArray<string>, ...args: ReadonlyArray<string>) =>
  Effect.promise(() =>
    new Promise<{ readonly code: number | null; readonly stdout: string; readonly stderr: string }>(
      (resolve, reject) => {
        const [program = "", ...words] = [...namespace.prefix, ...before, process.execPath, executable, ...args]
        const env = { PATH: process.env["PATH"], FIREZONE_TOKEN: TOKEN, FIREZONE_TUN_NAME: "fz-none" }
        const child = spawn(program, words, { env, stdio: ["ignore", "pipe", "pipe"] })
        let stdout = ""
        let stderr = ""
        child.stdout.setEncoding("utf8").on("data", (text: string) => (stdout += text))
        child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text))
        child.on("error", reject)
        child.on("close", (code) => resolve({ code, stdout, stderr }))
      }
    )
  )

// The checkout may be in a folder that only root may enter.
const KEEP = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
const NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", ...KEEP]

describeWith({ root: true, programs: ["ip", "setpriv"] }, "doctor, the executable", () => {
  it.scopedLive("tells what is missing where there is no network", () =>
    Effect.gen(function*() {
      const namespace = yield* makeNamespace("fz-doctor")
      const began = performance.now()
      const { code, stderr, stdout } = yield* run(namespace, [], "doctor", "--json")
      assert.isBelow(performance.now() - began, LIMIT_MILLIS)
      assert.deepStrictEqual([code, stderr], [11, ""])
      assert.notInclude(stdout, TOKEN)
      const verdicts = new Map(decode(stdout).checks.map(({ id, verdict }): [string, Verdict] => [id, verdict]))
      const expected = { uplinks: "failed", tun: "ok", privileges: "ok", sockets: "ok", token: "ok", relays: "skipped" }
      for (const [id, verdict] of Object.entries(expected)) assert.strictEqual(verdicts.get(id), verdict, id)
    }), 60_000)

  it.scopedLive("looks at what it may as a user without rights", () =>
    Effect.gen(function*() {
      const namespace = yield* makeNamespace("fz-doctor")
      const { code, stderr, stdout } = yield* run(namespace, NOBODY, "doctor")
      assert.deepStrictEqual([code, stderr], [11, ""])
      assert.include(stdout, "Run it with sudo to look at everything.")
      assert.include(stdout, " --   TUN device")
      assert.include(stdout, "FAIL  Uplinks")
      assert.notInclude(stdout, "\x1b")
    }), 60_000)

  it.scopedLive("refuses a server that is none", () =>
    Effect.gen(function*() {
      const namespace = yield* makeNamespace("fz-doctor")
      const { code, stderr } = yield* run(namespace, [], "doctor", "--stun", "relay.example")
      assert.strictEqual(code, 2)
      assert.include(stderr, "relay.example")
    }), 60_000)
})
