package embedded

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	closeLimit    = 30 * time.Second // a child that has not closed by then is killed
	firstBackoff  = 100 * time.Millisecond
	longestWait   = 10 * time.Second // between two attempts to start a part again
	steadyAfter   = time.Minute      // a child that lived this long starts the backoff anew
	logLimit      = 10 << 20         // bytes of a part's log that are kept; twice this on disk
	probeInterval = 20 * time.Millisecond
)

// part is one embedded part as its parent sees it: the specification, the child that runs now, and the goroutine
// that watches it.
type part struct {
	flags     []string // the flag of each address
	answers   func(ctx context.Context, addrs []string) error
	onRestart func(part string, cause error)
	log       *slog.Logger

	mu    sync.Mutex
	spec  spec   // addresses are the real ones after the first start
	child *child // the running one, nil between two

	closing    context.Context // ends when close is called
	beginClose context.CancelFunc
	watched    chan struct{} // closed when watch has returned; nil before the first start
}

func newPart(cfg Config, log *slog.Logger, sp spec, answers func(context.Context, []string) error, flags ...string) *part {
	sp.Dir = filepath.Join(cfg.Dir, sp.Part)
	p := &part{
		spec: sp, flags: flags, answers: answers, onRestart: cfg.OnRestart,
		log: log.With("part", sp.Part),
	}
	p.closing, p.beginClose = context.WithCancel(context.Background())
	return p
}

func (p *part) name() string { return p.spec.Part } // never changes

func (p *part) addr(i int) string {
	if p == nil {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spec.Addrs[i]
}

func (p *part) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return 0
	}
	return p.child.cmd.Process.Pid
}

// start brings the part up for the first time and begins to watch it.
func (p *part) start(ctx context.Context) error {
	for _, a := range p.spec.Addrs {
		if err := checkAddr(a); err != nil {
			return fmt.Errorf("%s: address %q: %w", p.name(), a, err)
		}
	}
	c, err := p.bringUp(ctx)
	if err != nil {
		return err
	}
	p.watched = make(chan struct{})
	go p.watch(c)
	return nil
}

// close ends the part. It does nothing for a part that was never up.
func (p *part) close() {
	p.beginClose()
	if p.watched != nil {
		<-p.watched
	}
}

// watch owns the child from its first answer to close, and starts it again whenever it ends.
func (p *part) watch(c *child) {
	defer close(p.watched)
	backoff := firstBackoff
	for {
		select {
		case <-p.closing.Done():
			c.stop(p.log)
			p.setChild(nil)
			return
		case <-c.ended:
		}
		p.setChild(nil)

		cause := c.end()
		p.log.Error("embedded part ended by itself, starting it again", "cause", cause, "lived", time.Since(c.started).Round(time.Millisecond))
		if p.onRestart != nil {
			p.onRestart(p.name(), cause)
		}
		if time.Since(c.started) > steadyAfter {
			backoff = firstBackoff
		}
		for c = nil; c == nil; {
			if !p.sleep(backoff) {
				return
			}
			backoff = min(2*backoff, longestWait)
			var err error
			if c, err = p.bringUp(p.closing); err == nil {
				p.log.Info("embedded part answers again", "pid", c.cmd.Process.Pid)
			} else if p.closing.Err() == nil {
				p.log.Error("embedded part cannot be started again, trying on", "error", err, "next", backoff)
			}
		}
	}
}

// sleep waits, and reports false when the part is being closed.
func (p *part) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-p.closing.Done():
		return false
	}
}

func (p *part) setChild(c *child) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child = c
}

// bringUp starts a child and returns it once the part answers. A child that does not get there is ended.
func (p *part) bringUp(ctx context.Context) (*child, error) {
	p.mu.Lock()
	sp := p.spec
	sp.Addrs = slices.Clone(sp.Addrs)
	p.mu.Unlock()

	c, err := spawn(sp)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", p.name(), err)
	}
	addrs, err := p.awaitAnswer(ctx, c)
	if err != nil {
		c.stop(p.log)
		return nil, err
	}
	p.mu.Lock()
	p.spec.Addrs = addrs
	p.child = c
	p.mu.Unlock()
	return c, nil
}

// awaitAnswer follows the child's reports until it listens, and then asks the part until it answers.
func (p *part) awaitAnswer(ctx context.Context, c *child) (addrs []string, err error) {
	for addrs == nil {
		select {
		case r, ok := <-c.reports:
			switch {
			case !ok: // it ended; the cause follows
				<-c.ended
				return nil, fmt.Errorf("%s ended before it answered: %w", p.name(), c.end())
			case r.State == stateWaiting:
				p.log.Info("waiting for an earlier process to leave the data folder", "pid", r.PID, "folder", c.spec.Dir)
			case r.State == stateTaken:
				return nil, &PortError{Part: p.name(), Addr: r.Addrs[0], Flag: p.flags[max(0, slices.Index(c.spec.Addrs, r.Addrs[0]))]}
			case r.State == stateFailed:
				return nil, fmt.Errorf("%s: %s", p.name(), r.Error)
			case r.State == stateListening:
				addrs = r.Addrs
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: gave up waiting for it to start: %w", p.name(), ctx.Err())
		}
	}
	for {
		err := p.answers(ctx, addrs)
		if err == nil {
			return addrs, nil
		}
		select {
		case <-time.After(probeInterval):
		case <-c.ended:
			return nil, fmt.Errorf("%s ended before it answered: %w", p.name(), c.end())
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not answer on %s: %w", p.name(), strings.Join(addrs, ", "), err)
		}
	}
}

// child is one process of a part.
type child struct {
	spec    spec
	cmd     *exec.Cmd
	pipe    *os.File // what holds it: closing this asks the child to close
	started time.Time
	reports chan report   // closed when the child has nothing more to report
	ended   chan struct{} // closed after the process is gone; exit is set before
	exit    error
}

// spawn executes this binary again as a child for sp.
func spawn(sp spec) (*child, error) {
	text, err := json.Marshal(sp)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(sp.Dir, 0o755); err != nil {
		return nil, err
	}
	out, err := openLog(filepath.Join(sp.Dir, "log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	self, err := ownBinary()
	if err != nil {
		return nil, err
	}
	hold, pipe, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer hold.Close()
	reports, reportTo, err := os.Pipe()
	if err != nil {
		pipe.Close()
		return nil, err
	}
	defer reportTo.Close()

	cmd := exec.Command(self)
	cmd.Args = []string{"counterfoil-" + sp.Part, sp.Dir} // what ps shows; the child reads the environment
	cmd.Env = append(os.Environ(), childEnv+"="+string(text), "TZ=UTC")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = hold, out, out
	cmd.ExtraFiles = []*os.File{reportTo} // becomes reportFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		pipe.Close()
		reports.Close()
		return nil, err
	}
	c := &child{spec: sp, cmd: cmd, pipe: pipe, started: time.Now(), reports: make(chan report, 8), ended: make(chan struct{})}
	go c.readReports(reports)
	go func() {
		c.exit = cmd.Wait()
		close(c.ended)
	}()
	return c, nil
}

// ownBinary is what a child executes. On Linux it is the running program itself, even after its file was
// replaced by a newer build.
func ownBinary() (string, error) {
	if runtime.GOOS == "linux" {
		return "/proc/self/exe", nil
	}
	return os.Executable()
}

func (c *child) readReports(from *os.File) {
	defer from.Close()
	defer close(c.reports)
	dec := json.NewDecoder(bufio.NewReader(from))
	for {
		var r report
		if dec.Decode(&r) != nil {
			return // the child closed its end, or is gone
		}
		select {
		case c.reports <- r: // why it ended, perhaps, by a child that has
			continue
		default:
		}
		select {
		case c.reports <- r:
		case <-c.ended: // nobody reads any more
			return
		}
	}
}

// stop asks the child to close, waits, and kills it when it does not.
func (c *child) stop(log *slog.Logger) {
	c.pipe.Close()
	select {
	case <-c.ended:
		return
	case <-time.After(closeLimit):
	}
	log.Error("embedded part did not close in time, killing it", "pid", c.cmd.Process.Pid, "limit", closeLimit)
	_ = c.cmd.Process.Kill() // fails only where the process has just ended
	<-c.ended
}

// end describes how an ended child ended, with the last lines of its log.
func (c *child) end() error {
	c.pipe.Close()
	err := c.exit
	if err == nil {
		err = errors.New("exit status 0")
	}
	if tail := logTail(filepath.Join(c.spec.Dir, "log")); tail != "" {
		return fmt.Errorf("%w; the end of %s: %s", err, filepath.Join(c.spec.Dir, "log"), tail)
	}
	return err
}

// openLog opens a part's log for appending and sets an overgrown one aside as log.1.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > logLimit {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// logTail returns the last lines of a log in one line, or "".
func logTail(path string) string {
	const lines, size = 5, 2 << 10
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > size {
		if _, err := f.Seek(-size, io.SeekEnd); err != nil {
			return ""
		}
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	all := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte(" | ")))
}
