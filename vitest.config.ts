import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // A process per file: a file may move itself into network namespaces without touching the others.
    pool: "forks",
    isolate: true,
    testTimeout: 20_000,
    hookTimeout: 60_000,
    reporters: ["default", "./test/support/reporter.ts"]
  }
})
