import { spawn } from "node:child_process"
import { once } from "node:events"
import * as fs from "node:fs"
import type { Readable, Writable } from "node:stream"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { namespaceKey, startOf } from "../../src/lab/procfs.ts"

describe.runIf(process.platform === "linux")("startOf", () => {
  let folder: string
  beforeAll(() => {
    folder = fs.mkdtempSync("/tmp/procfs-test-")
  })
  afterAll(() => fs.rmSync(folder, { recursive: true }))

  it("tells processes of one pid apart, whatever they are called", async () => {
    assert.match(startOf(process.pid) ?? "", /^[0-9]+$/)
    assert.strictEqual(startOf(process.pid), startOf(process.pid))
    // The kernel shows 15 bytes of the name; these look like the fields behind it.
    const program = `${folder}/a) Z 1 2 3 4`
    fs.copyFileSync("/bin/sleep", program)
    const child = spawn(program, ["60"])
    await once(child, "spawn")
    const pid = child.pid ?? 0
    const start = startOf(pid)
    assert.match(start ?? "", /^[0-9]+$/)
    assert.isAtLeast(Number(start), Number(startOf(process.pid)))
    child.kill("SIGKILL")
    await once(child, "exit")
    assert.isUndefined(startOf(pid))
  })

  it("knows no pid beyond the largest", () => {
    assert.isUndefined(startOf(4_194_305))
    assert.isUndefined(namespaceKey("/proc/4194305/ns/net"))
  })

  it("takes a process that has ended but is not yet waited for as ended", async () => {
    // The shell might still wait for its child; the program that takes its place does not.
    const parent = spawn("sh", ["-c", "cat <&3 >/dev/null & echo $!; exec sleep 60 3<&-"], {
      stdio: ["ignore", "pipe", "inherit", "pipe"]
    })
    const [line] = await once(parent.stdout as Readable, "data") as [Buffer]
    const pid = Number(line)
    const pause = () => new Promise((resolve) => setTimeout(resolve, 5))
    while (fs.readFileSync(`/proc/${parent.pid}/comm`, "utf8") !== "sleep\n") await pause()
    ;(parent.stdio[3] as Writable).end()
    while (startOf(pid) !== undefined) await pause()
    assert.include(fs.readFileSync(`/proc/${pid}/stat`, "utf8"), ") Z ")
    parent.kill("SIGKILL")
  })
})
