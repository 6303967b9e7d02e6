// Package harness drives the real counterfoil binary for the tests of conformance, end to end and faults.
//
// [Up] is `counterfoil up` with all that is embedded in it; [Cluster] is any number of copies of each role as separate processes against
// one Kafka, registry and ClickHouse of test/stack. Both hold [Parts], which is how a test reaches Kafka, the registry and ClickHouse
// itself, whoever started them. Every process can be killed with -9, stopped and resumed, and started again; none outlives its test.
//
// The binary is built once for a test process. What the processes print is kept and shown when the test fails.
//
// Files: harness.go the binary and what may be missing; process.go one process; up.go and cluster.go the two ways to run; parts.go
// reaching the parts; breakable.go servers that a test breaks, proxy.go the ways to them; drained.go waiting until everything is judged and written;
// client.go the partners' HTTP APIs as a client.
package harness

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/counterfoil/counterfoil/cmd/embedded"
	"github.com/counterfoil/counterfoil/test/stack"
)

// Main runs the tests of a package that uses the harness. It is all that its TestMain has.
func Main(m *testing.M) {
	stack.AtEnd(func() {
		if binary.dir != "" {
			_ = os.RemoveAll(binary.dir) // a folder that stays behind in the temporary folder harms nobody
		}
	})
	stack.Main(m)
}

var binary struct {
	once      sync.Once
	dir, path string
	err       error
}

// Binary is the path of counterfoil, which the first call builds.
func Binary(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		if binary.dir, binary.err = os.MkdirTemp("", "counterfoil-bin-"); binary.err != nil {
			return
		}
		binary.path = filepath.Join(binary.dir, "counterfoil")
		build := exec.Command("go", "build", "-trimpath", "-o", binary.path, "github.com/counterfoil/counterfoil/cmd/counterfoil")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("build counterfoil: %w\n%s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

// Soak reports whether the long forms of tests are asked for (SOAK=1).
func Soak() bool { return os.Getenv("SOAK") != "" }

// NeedClickHouse skips the test where no ClickHouse can be run, unless CI is set: there everything must be present.
func NeedClickHouse(t testing.TB) {
	t.Helper()
	if stack.GivenClickHouse() || stack.InContainers() {
		return
	}
	library, err := embedded.FindLibrary("")
	if err != nil {
		t.Fatal(err)
	}
	if library != "" {
		return
	}
	if _, err := exec.LookPath("clickhouse"); err != nil {
		missing(t, "ClickHouse: neither libchdb nor a clickhouse binary was found: run `make tools`, or set LIBCHDB to a libchdb.so")
	}
}

// NeedKafka skips the test where the broker that TEST_KAFKA asks for cannot be run, unless CI is set.
func NeedKafka(t testing.TB) {
	t.Helper()
	if !stack.OnApache() || stack.GivenKafka() {
		return
	}
	if _, err := exec.LookPath("java"); err != nil {
		missing(t, "Apache Kafka needs java 17 or later on the PATH")
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// FreePort returns a port of 127.0.0.1 on which nothing listens now. It lies below the range from which the kernel takes ports for outgoing
// connections, so that none of those takes it while the process that it is meant for is down.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 11000 + rand.IntN(21000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		l.Close()
		return port
	}
	t.Fatal("found no free port")
	return 0
}

// FreeAddr is a free port as an address of this machine.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
}
