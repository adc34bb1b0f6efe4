import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { afterAll, assert, describe, it } from "vitest"
import * as file from "../../../src/ffi/linux/file.ts"
import { close, ERRNO, errno, errnoName, lastError, memoryAddress } from "../../../src/ffi/linux/libc.ts"

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fz-file-"))
afterAll(() => fs.rmSync(folder, { recursive: true }))

const iovecs = (...parts: ReadonlyArray<Uint8Array>): Uint8Array => {
  const vectors = new BigUint64Array(parts.flatMap((part) => [BigInt(memoryAddress(part)), BigInt(part.length)]))
  return new Uint8Array(vectors.buffer)
}

describe("descriptors", () => {
  it("are opened with the flags asked for, written in pieces and read back", () => {
    const name = path.join(folder, "a")
    fs.writeFileSync(name, "")
    const fd = file.open()(name, file.O_RDWR | file.O_CLOEXEC, 0)
    assert.isAtLeast(fd, 0)
    assert.strictEqual(file.fcntl()(fd, file.F_GETFD, 0), 1) // FD_CLOEXEC
    assert.strictEqual(file.fcntl()(fd, file.F_GETFL, 0) & file.O_NONBLOCK, 0)
    assert.strictEqual(file.fcntl()(fd, file.F_SETFL, file.fcntl()(fd, file.F_GETFL, 0) | file.O_NONBLOCK), 0)
    assert.strictEqual(file.fcntl()(fd, file.F_GETFL, 0) & file.O_NONBLOCK, file.O_NONBLOCK)
    const [a, b] = [Uint8Array.of(1, 2, 3), Uint8Array.of(4)]
    const vectors = iovecs(a as Uint8Array, b as Uint8Array)
    assert.strictEqual(file.writev()(fd, memoryAddress(vectors), 2), 4)
    assert.strictEqual(file.write()(fd, memoryAddress(b as Uint8Array), 1), 1)
    assert.deepStrictEqual([...fs.readFileSync(name)], [1, 2, 3, 4, 4])
    close()(fd)
    const again = file.open()(name, file.O_RDWR, 0)
    const bytes = new Uint8Array(8)
    assert.strictEqual(file.read()(again, memoryAddress(bytes) + 1, 3), 3)
    assert.deepStrictEqual([...bytes], [0, 1, 2, 3, 0, 0, 0, 0])
    close()(again)
  })

  it("say why they fail, with the name of the error", () => {
    assert.strictEqual(file.open()(path.join(folder, "none"), file.O_RDWR, 0), -1)
    const error = lastError("open", "look elsewhere")
    assert.deepInclude({ ...error }, { syscall: "open", code: 2, errno: "ENOENT", hint: "look elsewhere" })
    assert.strictEqual(error.message, "open: ENOENT (2); look elsewhere")
    assert.strictEqual(file.read()(-1, memoryAddress(new Uint8Array(1)), 1), -1)
    assert.strictEqual(errnoName(errno()), "EBADF")
    assert.strictEqual(errnoName(99_999), "UNKNOWN")
    assert.strictEqual(file.mknod()(folder, file.S_IFCHR, 0), -1)
    assert.strictEqual(errno(), ERRNO.EEXIST)
  })

  it("are polled: what is wanted, what is found", () => {
    const fd = file.eventfd()(0, file.O_NONBLOCK)
    const entry = new Uint8Array(8)
    const view = new DataView(entry.buffer)
    view.setInt32(0, fd, true)
    view.setInt16(4, file.POLLIN | file.POLLOUT, true)
    assert.strictEqual(file.poll()(memoryAddress(entry), 1, 0), 1)
    assert.strictEqual(view.getInt16(6, true), file.POLLOUT)
    const one = new Uint8Array(BigUint64Array.of(5n).buffer)
    assert.strictEqual(file.write()(fd, memoryAddress(one), 8), 8)
    file.poll()(memoryAddress(entry), 1, 0)
    assert.strictEqual(view.getInt16(6, true), file.POLLIN | file.POLLOUT)
    close()(fd)
    file.poll()(memoryAddress(entry), 1, 0)
    assert.strictEqual(view.getInt16(6, true), file.POLLNVAL)
  })
})
