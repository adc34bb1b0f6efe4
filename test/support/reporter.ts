/** Ends the run with the counts on one line, and names what was skipped and why. */
import type { Reporter, TestCase, TestModule, TestSuite } from "vitest/node"

export default class CountingReporter implements Reporter {
  onTestRunEnd(modules: ReadonlyArray<TestModule>): void {
    let passed = 0
    let failed = 0
    const skipped: Array<string> = []
    const count = (item: TestCase): void => {
      const { state } = item.result()
      if (state === "passed") passed += 1
      else if (state === "failed") failed += 1
      else skipped.push(item.fullName)
    }
    for (const module of modules) {
      if (!module.ok() && module.children.size === 0) failed += 1
      const visit = (suite: TestModule | TestSuite): void => {
        for (const child of suite.children) {
          if (child.type === "test") count(child)
          else visit(child)
        }
      }
      visit(module)
    }
    const reasons = new Map<string, number>()
    for (const name of skipped) {
      const reason = /\[needs ([^\]]*)\]/.exec(name)?.[1] ?? "no reason given"
      reasons.set(reason, (reasons.get(reason) ?? 0) + 1)
    }
    for (const [reason, n] of reasons) console.log(`SKIPPED ${n}: needs ${reason}`)
    console.log(`${passed} passed, ${failed} failed, ${skipped.length} skipped`)
    if (process.env["CI"] === "true" && skipped.length > 0) {
      console.log("skips are failures with CI=true:")
      for (const name of skipped) console.log(`  ${name}`)
      process.exitCode = 1
    }
  }
}
