import * as os from "node:os"
import { describe, expect, it } from "vitest"
import { hostFactsOf } from "../../../src/layers/portal/hostFacts.ts"

describe("host facts", () => {
  it("come from os-release", () => {
    const debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\n"
    expect(hostFactsOf(debian)).toEqual({
      osType: "Debian",
      osVersion: "12.0.0",
      arch: os.machine(),
      kernel: os.release()
    })
    expect(hostFactsOf("NAME=Fedora Linux\nVERSION_ID=40\n")).toMatchObject({ osType: "Fedora", osVersion: "40.0.0" })
    expect(hostFactsOf("NAME='Ubuntu'\nVERSION_ID='24.04'\n")).toMatchObject({ osType: "Ubuntu", osVersion: "24.4.0" })
  })
  it("do without", () => {
    for (const text of [undefined, "", "NAME=\"Linux\"\n"]) {
      const { osType, osVersion } = hostFactsOf(text)
      expect(osType).toBe(os.type())
      expect(osVersion).toMatch(/^\d+\.\d+\.\d+$/)
    }
  })
})
