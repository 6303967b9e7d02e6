//go:build !race

package harness

// Raced says that the tests run under the race detector.
const Raced = false
