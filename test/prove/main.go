package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// folder is this package's, below the root of the module.
const folder = "test/prove"

func run(ctx context.Context) error {
	pattern := flag.String("run", ".", "prove the guards whose name has this `pattern`")
	jobs := flag.Int("j", max(1, runtime.GOMAXPROCS(0)/4), "how many tests run at once; most of them use two CPUs, and some watch the clock")
	trust := flag.Bool("trust", false, "believe that the tests pass as they are, where they were just run")
	write := flag.Bool("table", false, "write the table in "+folder+"/README.md anew, and prove nothing")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "Takes guards of the product away, one after the other, and shows that a test notices each: see %s/README.md.\n\n", folder)
		flag.PrintDefaults()
	}
	flag.Parse()
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	all, err := readMutations(filepath.Join(root, folder, "mutations"))
	if err != nil {
		return err
	}
	if *write {
		return writeTable(filepath.Join(root, folder, "README.md"), all)
	}
	wanted, err := regexp.Compile(*pattern)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	all = slices.DeleteFunc(all, func(m *mutation) bool { return !wanted.MatchString(m.name) })
	if len(all) == 0 {
		return fmt.Errorf("no guard has a name like %s", *pattern)
	}
	temp, err := os.MkdirTemp("", "counterfoil-prove-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }() // a folder that stays behind in the temporary folder harms nobody
	return prove(ctx, &runner{root: root, temp: temp, trust: *trust}, all, *jobs)
}

// prove runs mutations and prints a line for each.
func prove(ctx context.Context, r *runner, all []*mutation, jobs int) error {
	begun := time.Now()
	if fmt.Printf("%d guards\n", len(all)); !r.trust {
		fmt.Println("first their tests as they are")
	}
	var missed []string
	done := 0
	err := r.run(ctx, all, jobs, func(res result) {
		done++
		what := "caught"
		if !res.caught {
			what = "MISSED"
			missed = append(missed, res.m.name)
		}
		fmt.Printf("%3d/%d %s %s (%.0f s)\n        %s %s\n        %s\n", done, len(all), what, res.m.name, res.took.Seconds(), res.m.pkg, res.m.test,
			strings.ReplaceAll(res.said, "\n", "\n        "))
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d of %d guards are proved, in %s\n", len(all)-len(missed), len(all), time.Since(begun).Round(time.Second))
	if len(missed) > 0 {
		return errors.New("no test notices that these are gone: " + strings.Join(missed, ", "))
	}
	return nil
}

// moduleRoot is the folder of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}
