import { assert, describe, it } from "vitest"
import { ownTimes, perfParts } from "../../bench/profile.ts"

describe("profiles", () => {
  const node = (id: number, functionName: string, url = "") => ({ id, callFrame: { functionName, url, lineNumber: 9 } })

  it("give each function its own time, and what is native one name", () => {
    const { functions, idle } = ownTimes({
      nodes: [
        node(1, "(root)"),
        node(2, "(idle)"),
        node(3, "seal", "file:///dist/cipher.js"),
        node(4, "seal", "file:///dist/cipher.js"),
        node(5, "writev"),
        node(6, "sizeof"),
        node(7, "", "file:///dist/cipher.js")
      ],
      samples: [3, 2, 4, 5, 6, 7, 3],
      // Each is the time before its sample; the last sample's is not known.
      timeDeltas: [7, 10, 100, 20, 30, 35, 5]
    })
    assert.strictEqual(idle, 100)
    assert.deepStrictEqual(functions, [
      ["system calls and ciphers", 65],
      ["seal cipher.js:10", 30],
      ["anonymous cipher.js:10", 5]
    ])
  })

  it("add up the parts that perf tells of", () => {
    const report = `# Overhead  Shared Object      Symbol
#
    25.50%  node               [.] ChaCha20_16x
    10.00%  [kernel.kallsyms]  [k] _copy_to_iter
     8.00%  [JIT] tid 99       [.] 0x00007f06241e73f3
     5.00%  node               [.] poly1305_blocks_vpmadd52_8x
     2.00%  [kernel.kallsyms]  [k] chacha_of_the_kernel
     1.25%  koffi.node         [.] 0x000000000001e2b0
     0.25%  node               [.] Builtins_LoadIC
`
    assert.deepStrictEqual(perfParts(report), [
      ["ChaCha20", 25.5],
      ["kernel", 12],
      ["compiled JavaScript", 8],
      ["Poly1305", 5],
      ["node, koffi and libraries", 1.5]
    ])
    assert.deepStrictEqual(perfParts(""), [])
  })
})
