/** What npm packs, as a program of somebody else finds it: the examples of docs/library.md, with nothing but dependencies. */
import { assert, describe, it } from "@effect/vitest"
import { execFile } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { promisify } from "node:util"
import { afterAll, beforeAll } from "vitest"

const root = path.join(import.meta.dirname, "../..")
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "library-"))
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

/** Not at a stretch: the compiler takes its time, and the runner wants to be heard from in between. */
const run = async (cwd: string, file: string, ...args: ReadonlyArray<string>): Promise<string> => {
  try {
    return (await promisify(execFile)(file, args, { cwd })).stdout
  } catch (error) {
    const { stderr, stdout } = error as { readonly stderr: string; readonly stdout: string }
    throw new Error(`${file} ${args.join(" ")}: ${stderr}${stdout}`, { cause: error })
  }
}
const link = (name: string): void => {
  const place = path.join(folder, "node_modules", name)
  fs.mkdirSync(path.dirname(place), { recursive: true })
  fs.symlinkSync(path.join(root, "node_modules", name), place)
}

const NAME = "firezone-headless-client"
const packed = path.join(folder, "node_modules", NAME)
const tsc = path.join(root, "node_modules/typescript/bin/tsc")
const manifest = JSON.parse(fs.readFileSync(path.join(root, "package.json"), "utf8")) as {
  readonly dependencies: object
}
const filesIn = (dir: string): ReadonlyArray<string> =>
  fs.readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
    .map((entry) => path.relative(dir, path.join(entry.parentPath, entry.name)))

beforeAll(async () => {
  // A copy: to pack is to build, and others use what is built here.
  const source = path.join(folder, "source")
  fs.mkdirSync(source)
  for (const each of fs.readdirSync(root)) {
    if (["node_modules", "dist"].includes(each) || each.startsWith(".")) continue
    fs.cpSync(path.join(root, each), path.join(source, each), { recursive: true })
  }
  fs.symlinkSync(path.join(root, "node_modules"), path.join(source, "node_modules"))
  await run(source, "npm", "pack", "--silent", "--offline", "--pack-destination", folder)
  fs.mkdirSync(packed, { recursive: true })
  const [tarball = ""] = fs.readdirSync(folder).filter((name) => name.endsWith(".tgz"))
  await run(folder, "tar", "xzf", path.join(folder, tarball), "--strip-components=1", "-C", packed)
  for (const name of [...Object.keys(manifest.dependencies), "@types/node"]) link(name)
  fs.writeFileSync(path.join(folder, "package.json"), JSON.stringify({ type: "module" }))
  const compilerOptions = {
    target: "ES2022",
    module: "NodeNext",
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    types: ["node"],
    rootDir: ".",
    outDir: "out"
  }
  fs.writeFileSync(
    path.join(folder, "tsconfig.json"),
    JSON.stringify({ compilerOptions, include: ["example*.ts", "every.ts"] })
  )
}, 300_000)

describe("the npm package", () => {
  it("holds a module and its types for each of ours, the programs, and the documents", async () => {
    const sources = filesIn(path.join(root, "src")).filter((file) => file.endsWith(".ts"))
    const lib = new Set(filesIn(path.join(packed, "dist/lib/src")))
    assert.isAbove(sources.length, 100)
    for (const file of sources) {
      for (const ending of [".js", ".d.ts"]) assert.isTrue(lib.has(file.replace(/\.ts$/, ending)), file)
    }
    const top = filesIn(packed).filter((file) => !file.startsWith("dist/"))
    for (const file of ["README.md", "LICENSE", "package.json", "docs/library.md"]) assert.include(top, file)
    assert.isEmpty(top.filter((file) => /^(src|test|bench|node_modules|\.)/.test(file)))
    const bundle = filesIn(path.join(packed, "dist")).filter((file) => !file.startsWith("lib/"))
    for (const name of [NAME, "firezone-client-tunnel"]) {
      assert.include(bundle, `bin/${name}.js`)
      assert.match(
        await run(folder, process.execPath, path.join(packed, `dist/bin/${name}.js`), "--version"),
        /\d+\.\d+\.\d+/
      )
    }
    assert.isEmpty(bundle.filter((file) => file.startsWith("bench") || file.startsWith("throughput")))
  })

  it("has types that a strict program compiles against, and parts that it can use, replace and close", async () => {
    const text = fs.readFileSync(path.join(root, "docs/library.md"), "utf8")
    const examples = Array.from(text.matchAll(/^```ts\n(.*?)^```/gms), ([, code]) => code ?? "")
    assert.lengthOf(examples, 3)
    examples.forEach((code, index) => fs.writeFileSync(path.join(folder, `example${index}.ts`), code))
    const parts = filesIn(path.join(packed, "dist/lib/src")).filter((file) =>
      /^(services|layers\/\w+)\/[A-Z]\w*\.d\.ts$/.test(file)
    )
    assert.isAbove(parts.length, 80)
    const imports = parts.map((file) => `export type {} from "${NAME}/${file.replace(/\.d\.ts$/, "")}"\n`)
    fs.writeFileSync(path.join(folder, "every.ts"), imports.join(""))
    await run(folder, process.execPath, tsc, "-p", folder)
    assert.strictEqual(await run(folder, process.execPath, "out/example0.js"), "from 127.0.0.1 over lo\n")
    assert.strictEqual(
      await run(folder, process.execPath, "out/example1.js"),
      "no route to 192.0.2.1 outside the tunnel (this machine has no network)\n"
    )
  }, 300_000)
})
