//go:build race

package harness

// Raced says that the tests run under the race detector. It sees what runs in the test's own process: tests that are long because of what
// runs elsewhere, or that are one goroutine at a time, make fewer runs there.
const Raced = true
