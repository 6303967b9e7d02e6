package stack

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	apacheStart = 5 * time.Minute // 4 s on an idle machine
	apacheStop  = 30 * time.Second
	// After so long the controller no longer takes a broker that was killed for alive: broker.session.timeout.ms, and until it looks.
	apacheSession = 9500 * time.Millisecond
	// A cluster id is 16 bytes in URL-safe base64; brokers of tests need no two.
	apacheClusterID = "Y291bnRlcmZvaWwtdGVzdA"
)

// Roles of a process, which its files are named by.
const (
	controllerRole = "controller"
	brokerRole     = "broker"
)

// Verbs: controller port, folder of the data; of the broker its port, and the address that it tells clients.
const (
	controllerProperties = `process.roles=controller
node.id=1
listeners=CONTROLLER://127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:%[1]d
log.dirs=%[2]s
broker.session.timeout.ms=9000
`
	brokerProperties = `process.roles=broker
node.id=2
listeners=PLAINTEXT://127.0.0.1:%[3]d
advertised.listeners=PLAINTEXT://%[4]s
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:%[1]d
log.dirs=%[2]s
auto.create.topics.enable=false
num.partitions=4
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2
message.max.bytes=5242880
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=100
`
)

// Apache is an Apache Kafka with a data folder of its own: a controller, and a broker, which is what faults befall. Both are child processes.
type Apache struct {
	dir        string
	addr       string
	java       string
	jars       string
	controller *process
	broker     *process  // nil while it does not run
	killed     time.Time // when the broker last ended without a word to the controller
}

// sharedApache returns the broker of the test process, which the first call starts.
func sharedApache(t testing.TB) *Apache {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.apache == nil {
		dir, err := shared.tempDir()
		if err != nil {
			t.Fatal(err)
		}
		a := newApache(t, filepath.Join(dir, "apache"), 0, "")
		shared.ends = append(shared.ends, a.close)
		a.Start(t)
		shared.apache = a
	}
	return shared.apache
}

// ApacheKafka starts an empty Apache Kafka broker for this test alone and kills it at the test's end.
func ApacheKafka(t testing.TB) *Apache {
	t.Helper()
	return startApache(t, newApache(t, t.TempDir(), 0, ""))
}

// ApacheKafkaBehind is such a broker that listens on a port of 127.0.0.1 and tells clients another address, of a proxy that leads there.
func ApacheKafkaBehind(t testing.TB, port int, advertised string) *Apache {
	t.Helper()
	return startApache(t, newApache(t, t.TempDir(), port, advertised))
}

func startApache(t testing.TB, a *Apache) *Apache {
	t.Helper()
	t.Cleanup(a.close)
	a.Start(t)
	return a
}

// newApache formats the data folders. A free port is taken for port 0; without an advertised address it is that of the port.
func newApache(t testing.TB, dir string, port int, advertised string) *Apache {
	t.Helper()
	java, err := exec.LookPath("java")
	if err != nil {
		t.Fatal("Apache Kafka needs java 17 or later on the PATH (for example: apt-get install openjdk-17-jre-headless)")
	}
	libs, err := findUp(filepath.Join(".tools", "kafka", "libs"))
	if err != nil {
		t.Fatalf("Apache Kafka is not installed, run `make tools-kafka`: %v", err)
	}
	ports, err := freePorts(2)
	if err != nil {
		t.Fatal(err)
	}
	port = cmp.Or(port, ports[0])
	a := &Apache{dir: dir, addr: fmt.Sprintf("127.0.0.1:%d", port), java: java, jars: filepath.Join(libs, "*")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	a.format(t, controllerRole, fmt.Sprintf(controllerProperties, ports[1], a.data(controllerRole)))
	a.format(t, brokerRole, fmt.Sprintf(brokerProperties, ports[1], a.data(brokerRole), port, cmp.Or(advertised, a.addr)))
	return a
}

func (a *Apache) config(role string) string { return filepath.Join(a.dir, role+".properties") }
func (a *Apache) output(role string) string { return filepath.Join(a.dir, role+".output") }
func (a *Apache) data(role string) string   { return filepath.Join(a.dir, role) }

// format makes the data folder of a role.
func (a *Apache) format(t testing.TB, role, properties string) {
	t.Helper()
	if err := os.WriteFile(a.config(role), []byte(properties), 0o644); err != nil {
		t.Fatal(err)
	}
	format := exec.Command(a.java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", a.jars,
		"kafka.tools.StorageTool", "format", "-t", apacheClusterID, "-c", a.config(role))
	if out, err := format.CombinedOutput(); err != nil {
		t.Fatalf("format %s: %v\n%s", a.data(role), err, out)
	}
}

// Broker is how to reach it; the address stays the same over restarts.
func (a *Apache) Broker() *Broker { return &Broker{Addrs: []string{a.addr}} }

// Start starts the broker, or starts it again on its data, and returns when it answers. One that was killed waits until the controller has seen that:
// before, 4.3.1 would go on as its own coordinator of transactions until the controller makes it register anew, and in that moment, in which no
// partition has a leader, forget markers that it still has to write, because it takes these partitions for deleted.
func (a *Apache) Start(t testing.TB) {
	t.Helper()
	if a.controller == nil {
		a.controller = a.run(t, controllerRole, "-Xmx256m", "-XX:TieredStopAtLevel=1")
	}
	time.Sleep(time.Until(a.killed.Add(apacheSession)))
	a.broker = a.run(t, brokerRole, "-Xmx512m")
	ctx, cancel := context.WithTimeout(context.Background(), apacheStart)
	defer cancel()
	for {
		err := a.answers(ctx)
		if err == nil {
			return
		}
		role := brokerRole
		select {
		case <-time.After(50 * time.Millisecond):
			continue
		case <-a.broker.ended:
			err = fmt.Errorf("the broker ended: %w", a.broker.exit)
		case <-a.controller.ended:
			role, err = controllerRole, fmt.Errorf("the controller ended: %w", a.controller.exit)
		case <-ctx.Done():
		}
		out, _ := os.ReadFile(a.output(role))
		t.Fatalf("Apache Kafka does not answer: %v\n%s", err, out[max(0, len(out)-4<<10):])
	}
}

// run starts the process of a role.
func (a *Apache) run(t testing.TB, role string, options ...string) *process {
	t.Helper()
	log, err := os.OpenFile(a.output(role), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(a.java, append(options, "-cp", a.jars, "kafka.Kafka", a.config(role))...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = a.dir, log, log
	p, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("start the %s of Apache Kafka: %v", role, err)
	}
	return p
}

// answers is nil when the broker says that it is part of the cluster, which comes after it accepts connections.
func (a *Apache) answers(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(a.addr))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	meta, err := req.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if len(meta.Brokers) == 0 {
		return errors.New("no broker has registered yet")
	}
	return nil
}

// Stop ends the broker in order and returns when it is gone.
func (a *Apache) Stop(t testing.TB) {
	t.Helper()
	a.end(syscall.SIGTERM)
}

// Kill ends the broker with kill -9.
func (a *Apache) Kill(t testing.TB) {
	t.Helper()
	a.end(syscall.SIGKILL)
}

// Pause stops the broker's process as it stands (SIGSTOP) until Resume.
func (a *Apache) Pause(t testing.TB) { a.signal(t, syscall.SIGSTOP) }

// Resume lets a paused broker go on.
func (a *Apache) Resume(t testing.TB) { a.signal(t, syscall.SIGCONT) }

func (a *Apache) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if a.broker == nil {
		t.Fatalf("%v: the broker does not run", sig)
	}
	if err := a.broker.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%v: %v", sig, err)
	}
}

// end ends the broker if it runs; one that does not heed sig is killed.
func (a *Apache) end(sig syscall.Signal) {
	if a.broker == nil {
		return
	}
	if !a.broker.end(sig, apacheStop) {
		a.killed = time.Now()
	}
	a.broker = nil
}

// close kills both processes.
func (a *Apache) close() {
	a.end(syscall.SIGKILL)
	if a.controller != nil {
		a.controller.end(syscall.SIGKILL, apacheStop)
		a.controller = nil
	}
}

// LoseMarker takes the last batch off the log of a partition, where that is the marker of a transaction's end, as if the broker had been killed
// before it was written and had forgotten it. It reports whether it was. The broker must have been killed.
func (a *Apache) LoseMarker(t testing.TB, topic string, partition int32) bool {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(a.data(brokerRole), fmt.Sprintf("%s-%d", topic, partition), "*.log"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("the log of %s/%d: %d segments, %v", topic, partition, len(segments), err)
	}
	path := slices.Max(segments)
	log, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A batch: base offset (8 bytes), length of what follows (4), leader epoch (4), magic (1), checksum (4), attributes (2), of which bit 5 says
	// that it is a control batch. A file may have zeros behind its last one.
	const head, attributes, control = 12, 21, 1 << 5
	last, marker := 0, false
	for at := 0; at+attributes+2 <= len(log); {
		length := int(binary.BigEndian.Uint32(log[at+head-4:]))
		if length == 0 {
			break
		}
		last, marker = at, log[at+attributes+1]&control != 0
		at += head + length
	}
	if marker {
		if err := os.Truncate(path, int64(last)); err != nil {
			t.Fatal(err)
		}
	}
	return marker
}

// process is a child of the test process that does not outlive it.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it is gone; exit is set before
	exit  error
}

// startProcess starts cmd in a session of its own, out of reach of the terminal's Ctrl-C, so that it is there
// until the tests have ended. When the test process dies, the kernel kills it (on Linux).
func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = dieWithParent()
	cmd.SysProcAttr.Setsid = true
	p := &process{cmd: cmd, ended: make(chan struct{})}
	if err := OnLauncher(cmd.Start); err != nil {
		return nil, err
	}
	go func() {
		p.exit = cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// end ends the process, with SIGKILL where it does not heed sig within a time, and reports whether it ended by itself.
func (p *process) end(sig syscall.Signal, within time.Duration) (orderly bool) {
	_ = p.cmd.Process.Signal(sig) // fails only where it has just ended
	select {
	case <-p.ended:
	case <-time.After(within):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
	return p.cmd.ProcessState.Exited()
}

// OnLauncher runs f on one thread that lives as long as this process: the kernel takes the end of the thread
// that started a child for the end of its parent.
func OnLauncher(f func() error) error {
	launcher.once.Do(func() {
		launcher.work = make(chan func())
		go func() {
			runtime.LockOSThread()
			for f := range launcher.work {
				f()
			}
		}()
	})
	done := make(chan error)
	launcher.work <- func() { done <- f() }
	return <-done
}

var launcher struct {
	once sync.Once
	work chan func()
}

// findUp finds a path below the working directory or a folder above it.
func findUp(path string) (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		full := filepath.Join(dir, path)
		if _, err := os.Stat(full); err == nil {
			return full, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s in %s or above", path, wd)
		}
	}
}

// freePorts returns n ports that are free now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are held until the last is chosen
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// Descendants returns the processes below pid, children first; on Linux only. Tests use it to see that a
// process took everything with it.
func Descendants(pid int) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		// pid (name) state parent ...: the name may hold anything, so count from its end.
		var id, parent int
		var state byte
		if _, err := fmt.Sscanf(string(text), "%d", &id); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if _, err := fmt.Sscanf(string(text[strings.LastIndexByte(string(text), ')')+1:]), " %c %d", &state, &parent); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if state != 'Z' {
			children[parent] = append(children[parent], id)
		}
	}
	var all []int
	for level := children[pid]; len(level) > 0; {
		all = append(all, level...)
		var next []int
		for _, id := range level {
			next = append(next, children[id]...)
		}
		level = next
	}
	return all, nil
}
