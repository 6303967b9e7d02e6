package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/counterfoil/counterfoil/test/stack"
)

const (
	readyLimit = 3 * time.Minute  // for a process to become ready; a few seconds on an idle machine
	drainLimit = 40 * time.Second // for a process to end after SIGINT
	shownLog   = 64 << 10         // bytes of a process's output that a failed test shows
)

// Process is a counterfoil process. Its methods are for one goroutine, but for Kill, Pause and Resume.
type Process struct {
	t        testing.TB
	name     string
	args     []string
	env      []string
	log      string // file with all that it printed, over all starts
	url      string // where it serves /readyz
	restarts bool   // one that ends by itself is started again, as a supervisor would

	mu       sync.Mutex
	program  string // another binary than [Binary]
	cmd      *exec.Cmd
	ended    chan struct{} // closed when the present process has ended; cmd.ProcessState is set then
	expected bool          // its end is our doing
	closed   bool          // the test is over: nothing is started any more
	exits    []string      // ends that were not
}

// newProcess makes a process that is not started yet. base is the environment besides PATH and the like.
func newProcess(t testing.TB, name, url string, env, args []string) *Process {
	t.Helper()
	p := &Process{t: t, name: name, args: args, url: url, log: filepath.Join(t.TempDir(), name+".log")}
	// Settings of the surroundings, such as KAFKA_BROKERS, must not leak into what is tested.
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LIBCHDB", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			p.env = append(p.env, name+"="+value)
		}
	}
	p.env = append(p.env, env...)
	t.Cleanup(p.close)
	return p
}

// close ends the process, whatever it does, and shows what it printed where the test failed.
func (p *Process) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end(syscall.SIGKILL)
	if len(p.exits) > 0 && !p.restarts {
		p.t.Errorf("%s ended by itself: %s", p.name, strings.Join(p.exits, "; "))
	}
	if p.t.Failed() {
		out, _ := os.ReadFile(p.log)
		p.t.Logf("the last that %s printed:\n%s", p.name, out[max(0, len(out)-shownLog):])
	}
}

// Start starts the process and returns at once.
func (p *Process) Start() {
	p.t.Helper()
	if err := p.start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
}

func (p *Process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return errors.New("it runs already")
	}
	return p.startLocked()
}

// startAgain starts a process that has ended by itself, unless the test has ended it meanwhile, or started it.
func (p *Process) startAgain() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expected || p.cmd != nil {
		return nil
	}
	return p.startLocked()
}

func (p *Process) startLocked() error {
	if p.closed {
		return nil
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	program := p.program
	if program == "" {
		program = Binary(p.t)
	}
	cmd := exec.Command(program, p.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = p.env, log, log, ownGroup()
	if err := stack.OnLauncher(cmd.Start); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.expected = cmd, ended, false
	go func() {
		_ = cmd.Wait() // the state says more
		p.mu.Lock()
		p.cmd = nil
		unasked := !p.expected
		if unasked {
			p.exits = append(p.exits, cmd.ProcessState.String())
		}
		p.mu.Unlock()
		close(ended)
		if unasked && p.restarts {
			time.Sleep(200 * time.Millisecond)
			_ = p.startAgain() // what keeps it from starting shows when the test waits for it
		}
	}()
	return nil
}

// Use has the next start run another binary; empty: [Binary].
func (p *Process) Use(program string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.program = program
}

// end sends sig to the process if it runs and waits for its end; one that does not heed it is killed. It returns the process's end, nil
// where it did not run.
func (p *Process) end(sig syscall.Signal) *os.ProcessState {
	p.mu.Lock()
	cmd, ended := p.cmd, p.ended
	p.expected = true
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	_ = cmd.Process.Signal(sig) // fails only where it has just ended
	select {
	case <-ended:
	case <-time.After(drainLimit):
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGQUIT) // prints its goroutines
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	}
	return cmd.ProcessState
}

// Kill ends the process with kill -9.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Interrupt ends the process with SIGINT, as Ctrl-C does. The test fails unless it exits with 0 and leaves no process behind.
func (p *Process) Interrupt() {
	p.t.Helper()
	pid := p.PID()
	if pid == 0 {
		p.t.Errorf("interrupt %s: it does not run", p.name)
		return
	}
	below, err := stack.Descendants(pid)
	if err != nil {
		p.t.Error(err)
	}
	if state := p.end(syscall.SIGINT); state == nil { // it ended by itself a moment ago, with what close says
		p.t.Errorf("interrupt %s: it does not run any more", p.name)
	} else if !state.Success() {
		p.t.Errorf("%s ended with %s after SIGINT, it must exit with 0", p.name, state)
	}
	for _, child := range below {
		if err := syscall.Kill(child, 0); !errors.Is(err, syscall.ESRCH) && !zombie(child) {
			p.t.Errorf("%s left process %d behind", p.name, child)
		}
	}
}

// zombie reports whether a process has ended and waits only for its parent, or whoever took its place, to notice.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndexByte(stat, ')')
	return err != nil || i < 0 || bytes.HasPrefix(stat[i+1:], []byte(" Z"))
}

// Pause stops the process as it stands (SIGSTOP) until Resume.
func (p *Process) Pause() { p.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() { p.signal(syscall.SIGCONT) }

func (p *Process) signal(sig syscall.Signal) {
	if pid := p.PID(); pid != 0 {
		_ = syscall.Kill(pid, sig) // fails only where it has just ended, which its end reports
	}
}

// PID is the process's id, 0 while it does not run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Exits are the ends of the process that nobody asked for.
func (p *Process) Exits() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.exits...)
}

// Log is all that the process has printed, over all its starts.
func (p *Process) Log() string {
	out, err := os.ReadFile(p.log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Error(err)
	}
	return string(out)
}

// WaitReady waits until /readyz says that the process does its job.
func (p *Process) WaitReady() {
	p.t.Helper()
	if err := p.ready(readyLimit); err != nil {
		p.t.Fatal(err)
	}
}

func (p *Process) ready(limit time.Duration) error {
	deadline := time.Now().Add(limit)
	last := "no answer"
	for time.Now().Before(deadline) {
		if p.PID() == 0 && !p.restarts {
			return fmt.Errorf("%s ended before it was ready: %v", p.name, p.Exits())
		}
		if res, err := probe.Get(p.url + "/readyz"); err == nil {
			var body bytes.Buffer
			_, _ = body.ReadFrom(res.Body) // only for the message
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			last = strings.TrimSpace(body.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s is not ready after %s: %s", p.name, limit, last)
}

// probe keeps no connections: a process that is told to drain must not wait for one.
var probe = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Metric adds up the values of a metric over all of its labels; 0 where there are none yet.
func (p *Process) Metric(name string) float64 {
	p.t.Helper()
	res, err := probe.Get(p.url + "/metrics")
	if err != nil {
		p.t.Fatalf("metrics of %s: %v", p.name, err)
	}
	defer res.Body.Close()
	var sum float64
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		series, value, ok := cutLast(lines.Text(), " ")
		if !ok || series != name && !strings.HasPrefix(series, name+"{") {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			p.t.Fatalf("metrics of %s: %s: %v", p.name, lines.Text(), err)
		}
		sum += v
	}
	if err := lines.Err(); err != nil {
		p.t.Fatalf("metrics of %s: %v", p.name, err)
	}
	return sum
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// TryRun runs a subcommand of a counterfoil binary to its end, with stdin as its input, and returns what it printed on standard output. An error
// has all of its output. When ctx ends it is killed.
func TryRun(ctx context.Context, program string, env []string, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = ownGroup()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := stack.OnLauncher(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return "", fmt.Errorf("counterfoil %s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// Name is what the process is called in logs; of a copy it is its INSTANCE.
func (p *Process) Name() string { return p.name }

// Stop ends the process with SIGTERM, as a supervisor does.
func (p *Process) Stop() { p.end(syscall.SIGTERM) }
