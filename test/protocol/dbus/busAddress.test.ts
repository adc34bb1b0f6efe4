import { assert, describe, it } from "@effect/vitest"
import { busSocketPath, SYSTEM_BUS_ADDRESS } from "../../../src/protocol/dbus/busAddress.ts"

describe("bus addresses", () => {
  it("lead to the first socket that has a path", () => {
    assert.strictEqual(busSocketPath(SYSTEM_BUS_ADDRESS), "/var/run/dbus/system_bus_socket")
    assert.strictEqual(busSocketPath("tcp:host=a,port=1;unix:path=/a;unix:path=/b"), "/a")
    assert.strictEqual(busSocketPath("unix:guid=00ff,path=/a%20b%2cc"), "/a b,c")
  })

  it("lead nowhere else", () => {
    for (
      const address of [
        "",
        ";",
        "unix:",
        "unix:abstract=/a",
        "unix:path=",
        "unix:path=a",
        "unix:path=/%",
        "xunix:path=/a"
      ]
    ) {
      assert.isUndefined(busSocketPath(address), address)
    }
  })
})
