package bench

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/test/harness"
	"github.com/counterfoil/counterfoil/test/stack"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.bench"); f != nil && f.Value.String() != "" {
		describe()
	}
	harness.Main(m)
}

// describe prints what the figures hold for, as configuration lines of the benchmark format.
func describe() {
	fmt.Printf("date: %s\n", time.Now().UTC().Format(time.RFC3339))
	fmt.Printf("cpus: %d\n", runtime.NumCPU())
	fmt.Printf("go: %s\n", runtime.Version())
	kafka := "Apache Kafka 4.3.1"
	if !stack.OnApache() {
		kafka = "kfake"
		if out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/twmb/franz-go/pkg/kfake").Output(); err == nil {
			kafka += " " + strings.TrimSpace(string(out))
		}
	}
	fmt.Printf("kafka: %s\n", kafka)
	fmt.Printf("load: %d items\n", items())
}

var sayClickHouse sync.Once

// describeClickHouse adds the server's version, once.
func describeClickHouse(b *testing.B, parts *harness.Parts) {
	sayClickHouse.Do(func() {
		var version string
		if err := parts.Conn().QueryRow(b.Context(), "SELECT version()").Scan(&version); err != nil {
			b.Fatal(err)
		}
		fmt.Printf("clickhouse: %s\n", version)
	})
}

// items is the size of a load.
func items() int { return size("BENCH_ITEMS", 300_000) }

// size is a setting that counts things.
func size(name string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return usual
}
