package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	childEnv   = "COUNTERFOIL_CHILD" // set: this process is a child, the value is its spec
	reportFD   = 3                   // where a child reports to its parent
	lockLimit  = 30 * time.Second    // how long a start waits for an earlier child to leave the folder
	lockPatrol = 20 * time.Millisecond
	// How long a start waits for the addresses of an earlier child, whose lock is gone already.
	listenLimit = 3 * time.Second
	// A child whose parent has gone ends at the latest after this time, closed or not: nothing may be left behind.
	orphanLimit = closeLimit - 5*time.Second
)

// spec is everything that a child is told.
type spec struct {
	Part  string
	Dir   string   // the part's own folder
	Addrs []string // to listen on
	// The rest is for ClickHouse.
	Library string `json:",omitempty"` // libchdb, or
	Binary  string `json:",omitempty"` // a clickhouse executable
	Users   string `json:",omitempty"` // users.xml
}

// report is one line from a child to its parent.
type report struct {
	State string
	Addrs []string `json:",omitempty"` // listening: all of them; taken: the one that is
	PID   int      `json:",omitempty"` // waiting: who holds the folder
	Error string   `json:",omitempty"` // failed
}

const (
	stateWaiting   = "waiting"
	stateTaken     = "taken"
	stateFailed    = "failed"
	stateListening = "listening" // or, for ClickHouse, about to: only its answer shows that it does
)

// RunChild turns this process into the embedded part that it was started as, and does not return then. In every
// other process it does nothing. It is the first call of main, and of TestMain in tests that start parts.
func RunChild() {
	text, ok := os.LookupEnv(childEnv)
	if !ok {
		return
	}
	_ = os.Unsetenv(childEnv) // no program that a part starts is a child of ours
	code := 0
	if err := runChild(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runChild(text string) error {
	// Received and dropped rather than ignored: ignored signals would stay so in a clickhouse server that is executed.
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for range dropped { //nolint:revive // dropping them is the purpose
		}
	}()

	var sp spec
	if err := json.Unmarshal([]byte(text), &sp); err != nil {
		return fmt.Errorf("read %s: %w", childEnv, err)
	}
	run, ok := map[string]func(*process) error{Kafka: runKafka, Registry: runRegistry, ClickHouse: runClickHouse}[sp.Part]
	if !ok {
		return fmt.Errorf("unknown part %q", sp.Part)
	}
	p := &process{spec: sp, parentGone: make(chan struct{}), reports: os.NewFile(reportFD, "reports")}
	syscall.CloseOnExec(reportFD)
	hold, err := syscall.Dup(0) // ClickHouse gets another standard input
	if err != nil {
		return fmt.Errorf("keep the parent's pipe: %w", err)
	}
	syscall.CloseOnExec(hold)
	go p.awaitParent(os.NewFile(uintptr(hold), "parent"))

	err = p.lock()
	if errors.Is(err, errParentGone) {
		return nil
	}
	if err == nil {
		err = run(p)
	}
	if err != nil {
		p.reportFailure(err)
	}
	return err
}

// process is a child, seen from inside.
type process struct {
	spec       spec
	parentGone chan struct{} // closed when the parent closed the pipe or died: close and return
	reports    *os.File
	folder     *os.File // the lock on the folder; never closed: what the part left running has the folder until the process ends
	inherited  bool     // the folder belonged to another process before
}

var errParentGone = errors.New("the parent went away before the folder was free")

func (p *process) dataDir() string { return filepath.Join(p.spec.Dir, "data") }

// awaitParent waits for the end of the pipe that holds this child to its parent.
func (p *process) awaitParent(hold *os.File) {
	_, _ = io.Copy(io.Discard, hold) // any end is the end
	time.AfterFunc(orphanLimit, func() {
		fmt.Fprintln(os.Stderr, "did not close within", orphanLimit)
		os.Exit(1)
	})
	close(p.parentGone)
}

// report tells the parent; one that has gone is not waited for.
func (p *process) report(r report) {
	_ = json.NewEncoder(p.reports).Encode(r)
}

func (p *process) reportFailure(err error) {
	var taken *addrTaken
	if errors.As(err, &taken) {
		p.report(report{State: stateTaken, Addrs: []string{taken.addr}})
		return
	}
	p.report(report{State: stateFailed, Error: err.Error()})
}

// lock takes the part's folder, waiting for an earlier child that is still closing. The lock falls with the
// process, however that ends. The error is errParentGone when the parent went away meanwhile.
func (p *process) lock() error {
	path := filepath.Join(p.spec.Dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	p.folder = f
	deadline, said := time.Now().Add(lockLimit), false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("lock %s: %w", path, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the data folder %s is in use by process %d: end the counterfoil that it belongs to, or choose another folder with --%s",
				p.spec.Dir, LockHolder(p.spec.Dir), FlagData)
		}
		if !said {
			p.report(report{State: stateWaiting, PID: LockHolder(p.spec.Dir)})
			said = true
		}
		select {
		case <-p.parentGone:
			return errParentGone
		case <-time.After(lockPatrol):
		}
	}
	p.inherited = LockHolder(p.spec.Dir) != 0
	if err := errors.Join(f.Truncate(0), writeAt(f, strconv.Itoa(os.Getpid())+"\n")); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}

// LockHolder returns the process id that the lock file of a part's folder names: the child that runs there, or
// the last one that did. It is 0 where there never was one.
func LockHolder(partDir string) int {
	text, err := os.ReadFile(filepath.Join(partDir, "lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// addrTaken is an address that belongs to another process.
type addrTaken struct{ addr string }

func (e *addrTaken) Error() string { return e.addr + " is taken by another process" }

// listen listens on addr; a taken one gives *addrTaken.
func (p *process) listen(addr string) (l net.Listener, err error) {
	p.patiently(func() bool {
		l, err = net.Listen("tcp", addr)
		return !errors.Is(err, syscall.EADDRINUSE)
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		err = &addrTaken{addr}
	}
	return l, err
}

// patiently does take until it succeeds or has had its chance. Where the folder had an owner before, what that owner had gets a moment to come
// free: a dying process gives up its lock on the folder some time before its sockets and other files, because the kernel closes them one after
// the other.
func (p *process) patiently(take func() bool) {
	deadline := time.Now()
	if p.inherited {
		deadline = deadline.Add(listenLimit)
	}
	for !take() && time.Now().Before(deadline) {
		select {
		case <-p.parentGone:
			return
		case <-time.After(lockPatrol):
		}
	}
}
