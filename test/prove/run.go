package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// testLimit is how long a test may take with its mutation: one that then still runs has not noticed.
	testLimit = 5 * time.Minute
	// buildLimit is how long building it may take, on a busy machine.
	buildLimit = 15 * time.Minute
)

// runner runs tests with and without mutations.
type runner struct {
	root  string // of the module
	temp  string // a folder of its own
	trust bool   // the tests are known to pass without mutations
}

// result is what became of a mutation.
type result struct {
	m      *mutation
	caught bool
	said   string // the test's line that shows it, or why it is not caught
	took   time.Duration
}

// run runs mutations, some at a time, and reports each result when it is there. The error says that the tests do not pass without mutations,
// and that nothing was tried.
func (r *runner) run(ctx context.Context, all []*mutation, jobs int, report func(result)) error {
	if !r.trust {
		if err := r.passWithout(ctx, all); err != nil {
			return err
		}
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	next := make(chan *mutation)
	for range jobs {
		group.Go(func() {
			for m := range next {
				res := r.try(ctx, m)
				mu.Lock()
				report(res)
				mu.Unlock()
			}
		})
	}
	for _, m := range all {
		if ctx.Err() != nil {
			break
		}
		next <- m
	}
	close(next)
	group.Wait()
	return ctx.Err()
}

// passWithout runs the tests of mutations without them, those of one package together. What go remembers to have passed is not run again.
func (r *runner) passWithout(ctx context.Context, all []*mutation) error {
	type place struct{ pkg, kafka string }
	patterns := map[place][]string{}
	var order []place
	for _, m := range all {
		at := place{m.pkg, m.kafka}
		if patterns[at] == nil {
			order = append(order, at)
		}
		if !slices.Contains(patterns[at], m.pattern()) {
			patterns[at] = append(patterns[at], m.pattern())
		}
	}
	for _, at := range order {
		out, err := r.goTest(ctx, 6*testLimit, at.pkg, at.kafka, strings.Join(patterns[at], "|"), "")
		if err != nil {
			return fmt.Errorf("%s does not pass as it is, so that nothing can be proved by it: %w\n%s", at.pkg, err, out)
		}
	}
	return nil
}

// try runs the test of a mutation with it.
func (r *runner) try(ctx context.Context, m *mutation) result {
	begun := time.Now()
	res := result{m: m}
	overlay, err := r.overlay(m)
	if err != nil {
		res.said = err.Error()
		return res
	}
	out, err := r.goTest(ctx, testLimit, m.pkg, m.kafka, m.pattern(), overlay)
	res.took = time.Since(begun)
	res.caught, res.said = m.judge(out, err)
	return res
}

// overlay writes the mutated files, and the file that tells the go command of them.
func (r *runner) overlay(m *mutation) (path string, err error) {
	files, err := m.files(r.root)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(r.temp, m.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	replace := map[string]string{}
	for name, text := range files {
		to := filepath.Join(dir, strconv.Itoa(len(replace))+filepath.Ext(name))
		if err := os.WriteFile(to, text, 0o600); err != nil {
			return "", err
		}
		replace[filepath.Join(r.root, name)] = to
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, text, 0o600)
}

// goTest runs tests of a package in a process group of its own, which ends with it or after limit.
func (r *runner) goTest(ctx context.Context, limit time.Duration, pkg, kafka, pattern, overlay string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, buildLimit+limit)
	defer cancel()
	args := []string{"test", "-v", "-timeout", limit.String(), "-run", pattern}
	env := os.Environ()
	if overlay != "" {
		// What a test starts builds with the overlay as well. Vetting a mutation would only tell what it is.
		args = append(args, "-vet=off", "-count=1")
		env = append(env, "GOFLAGS="+strings.TrimSpace(os.Getenv("GOFLAGS")+" -overlay="+overlay))
	}
	if kafka != "" {
		env = append(env, "TEST_KAFKA="+kafka)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir, cmd.Env = r.root, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// said are the lines in which a test says something: what t.Log and t.Error write, and what follows such a line; and what a process said that
// died of a panic.
var said = regexp.MustCompile(`(?m)^ {4,}[\w-]+\.go:\d+: .*$(?:\n {8}.*$)*|^panic: .*$`)

// judge reads what `go test -v` printed with the mutation: the line of the test that shows it, or why it is not caught.
func (m *mutation) judge(out string, err error) (caught bool, line string) {
	name, _, _ := strings.Cut(m.test, "/")
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(out, "no tests to run"):
		return false, "there is no such test"
	case err == nil && strings.Contains(out, "--- SKIP: "+name):
		return false, "the test was skipped"
	case err == nil:
		return false, "the test passes"
	case !errors.As(err, &exit) || strings.Contains(out, "panic: test timed out"):
		return false, "the test did not end in time"
	}
	for _, text := range said.FindAllString(out, -1) {
		says := slices.ContainsFunc(strings.Split(m.fails, " || "), func(one string) bool { return strings.Contains(text, one) })
		if says && (strings.Contains(out, "--- FAIL: "+name) || strings.HasPrefix(text, "panic: ")) {
			return true, strings.TrimSpace(text)
		}
	}
	return false, fmt.Sprintf("something fails, but the test does not say %q:\n%s", m.fails, tail(out))
}

// tail is the end of a long text.
func tail(text string) string {
	const most = 4000
	if len(text) > most {
		text = "…" + text[len(text)-most:]
	}
	return text
}
