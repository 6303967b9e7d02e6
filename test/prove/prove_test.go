package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const root = "../.."

func mutations(t *testing.T) []*mutation {
	t.Helper()
	all, err := readMutations("mutations")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestMutationsFitTheCode keeps the list from rotting: every text is there once, what stands instead compiles, and the test exists.
func TestMutationsFitTheCode(t *testing.T) {
	all := mutations(t)
	var changed []string
	for _, m := range all {
		for _, e := range m.edits {
			if dir := "./" + filepath.Dir(e.file); strings.HasSuffix(e.file, ".go") && !slices.Contains(changed, dir) {
				changed = append(changed, dir)
			}
		}
	}
	check := newTypeCheck(t, changed)
	tests := map[string]map[string]bool{}
	for _, m := range all {
		t.Run(m.name, func(t *testing.T) {
			files, err := m.files(root)
			if err != nil {
				t.Fatal(err)
			}
			if err := check.mutated(files); err != nil {
				t.Errorf("does not compile: %v", err)
			}
			if tests[m.pkg] == nil {
				tests[m.pkg] = testsOf(t, m.pkg)
			}
			if name, _, _ := strings.Cut(m.test, "/"); !tests[m.pkg][name] {
				t.Errorf("%s has no test %s", m.pkg, name)
			}
		})
	}
}

// TestMutationsThatDoNotCompileAreNoticed, though the other files of their package are read without bodies.
func TestMutationsThatDoNotCompileAreNoticed(t *testing.T) {
	const name = "schemas/ids.go"
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	check := newTypeCheck(t, []string{"./schemas"})
	for added, good := range map[string]bool{
		"func added() string { return Fold(KindSales) }": true, "func added() string { return Fold(7) }": false, "func added() { unused := 7 }": false, "func added() {": false,
	} {
		if err := check.mutated(map[string][]byte{name: fmt.Appendf(nil, "%s\n%s\n", text, added)}); (err == nil) != good {
			t.Errorf("%s: %v", added, err)
		}
	}
}

// testsOf are the names of the tests of a package.
func testsOf(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, path := range paths {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}

// typeCheck checks packages with some of their files replaced. What they import comes from the compiler's export data; of their other files the
// declarations are enough.
type typeCheck struct {
	fset     *token.FileSet
	packages map[string]*listed   // by folder, as in processors/reference
	others   map[string]*ast.File // by path: files as they are, without the bodies of their functions
	imports  types.Importer
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

func newTypeCheck(t *testing.T, dirs []string) *typeCheck {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", append([]string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles"}, dirs...)...)
	list.Dir, list.Stderr = root, os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	c := &typeCheck{fset: token.NewFileSet(), packages: map[string]*listed{}, others: map[string]*ast.File{}}
	exports := map[string]string{}
	for in := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := in.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		exports[p.ImportPath] = p.Export
		if dir, err := filepath.Rel(here, p.Dir); err == nil {
			c.packages[dir] = &p
		}
	}
	c.imports = importer.ForCompiler(c.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	return c
}

// mutated checks the packages of files, which have the given text.
func (c *typeCheck) mutated(files map[string][]byte) error {
	var done []string
	for name := range files {
		dir := filepath.Dir(name)
		if !strings.HasSuffix(name, ".go") || slices.Contains(done, dir) {
			continue
		}
		done = append(done, dir)
		pkg := c.packages[dir]
		if pkg == nil || !slices.Contains(pkg.GoFiles, filepath.Base(name)) {
			return fmt.Errorf("%s belongs to no package", name)
		}
		var parsed []*ast.File
		for _, file := range pkg.GoFiles {
			f, err := c.parse(filepath.Join(pkg.Dir, file), files[filepath.Join(dir, file)])
			if err != nil {
				return err
			}
			parsed = append(parsed, f)
		}
		var problems []error
		conf := types.Config{Importer: c.imports, GoVersion: "go1.26", Error: func(err error) {
			var problem types.Error
			if errors.As(err, &problem) && c.others[c.fset.Position(problem.Pos).Filename] == nil { // the others lack their bodies
				problems = append(problems, err)
			}
		}}
		_, _ = conf.Check(pkg.ImportPath, c.fset, parsed, nil) // Error has heard of it
		if len(problems) > 0 {
			return errors.Join(problems...)
		}
	}
	return nil
}

// parse reads a file: with the text that it has now, or without bodies as it is on the disk.
func (c *typeCheck) parse(path string, mutated []byte) (*ast.File, error) {
	if mutated != nil {
		return parser.ParseFile(c.fset, path+" (mutated)", mutated, parser.SkipObjectResolution)
	}
	if c.others[path] == nil {
		f, err := parser.ParseFile(c.fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				f.Body = nil
			}
		}
		c.others[path] = f
	}
	return c.others[path], nil
}

// TestTableListsAllMutations holds README.md against the mutations.
func TestTableListsAllMutations(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), tableBegin)
	got, _, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatal("README.md lacks the lines between which the table stands")
	}
	if diff := cmp.Diff(table(mutations(t)), got); diff != "" {
		t.Errorf("the table in README.md is old; write it anew with `go run ./test/prove -table` (-want +got):\n%s", diff)
	}
}

func TestMutationsThatCannotBeUsed(t *testing.T) {
	const good = "Why.\n@promise order\n@guard g\n@test ./ingest TestA\n@fails no\n-- a.go --\nx\n-- instead --\ny\n"
	if _, err := parseMutation("good", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, old, new string }{
		{"no reason", "Why.\n", ""},
		{"an unknown promise", "@promise order", "@promise peace"},
		{"an unknown directive", "@guard g", "@gaurd g"},
		{"a directive twice", "@guard g\n", "@guard g\n@guard h\n"},
		{"no test", "@test ./ingest TestA", "@test ./ingest"},
		{"nothing that the test says", "@fails no\n", ""},
		{"another broker", "@fails no\n", "@fails no\n@kafka redpanda\n"},
		{"half a pair", "-- instead --\ny\n", ""},
		{"the same text", "\ny\n", "\nx\n"},
		{"no pair", "-- a.go --\nx\n-- instead --\ny\n", ""},
	} {
		text := strings.Replace(good, test.old, test.new, 1)
		if text == good {
			t.Fatalf("%s: nothing was changed", test.name)
		}
		if _, err := parseMutation("bad", []byte(text)); err == nil {
			t.Errorf("%s is taken", test.name)
		}
	}
}

// TestWhatCountsAsCaught plants the ways in which a test can fail that show nothing.
func TestWhatCountsAsCaught(t *testing.T) {
	failed := exec.CommandContext(t.Context(), "false").Run()
	m := &mutation{test: "TestA/some case", fails: "nothing came || 2 outcomes, want 1"}
	const line = "    a_test.go:7: 2 outcomes, want 1\n"
	for _, test := range []struct {
		name, out string
		err       error
		want      bool
		says      string
	}{
		{"the test fails and says it", "=== RUN   TestA\n" + line + "--- FAIL: TestA (0.01s)\nFAIL\n", failed, true, "a_test.go:7: 2 outcomes, want 1"},
		{"it says the other thing", "    a_test.go:9: nothing came\n--- FAIL: TestA (0.01s)\n", failed, true, "nothing came"},
		{"it says it on the next line", "    a_test.go:7: wrong:\n        2 outcomes, want 1\n--- FAIL: TestA (0.01s)\n", failed, true, "2 outcomes"},
		{"the test passes", line + "--- PASS: TestA (0.01s)\nok\n", nil, false, "passes"},
		{"the test is skipped", "--- SKIP: TestA (0.00s)\nok\n", nil, false, "skipped"},
		{"there is no such test", "testing: warning: no tests to run\nok\n", nil, false, "no such test"},
		{"it does not build", "a.go:1:2: undefined: x\nFAIL a [build failed]\n", failed, false, "undefined"},
		{"the process dies", "panic: index out of range\n" + line, failed, false, "index"},
		{"the process dies of what it should", "panic: 2 outcomes, want 1 [recovered]\n", failed, true, "panic: 2 outcomes"},
		{"it hangs", line + "panic: test timed out after 5m0s\n--- FAIL: TestA (300s)\n", failed, false, "in time"},
		{"it fails at something else", "    a_test.go:9: no broker\n--- FAIL: TestA (0.01s)\n", failed, false, "no broker"},
		{"only its log has the text", "level=INFO msg=\"2 outcomes, want 1\"\n    a_test.go:9: no broker\n--- FAIL: TestA (0.01s)\n", failed, false, "no broker"},
		{"another test fails", line + "--- FAIL: TestB (0.01s)\n", failed, false, "TestB"},
	} {
		caught, said := m.judge(test.out, test.err)
		if caught != test.want || !strings.Contains(said, test.says) {
			t.Errorf("%s: caught %v, says %q", test.name, caught, said)
		}
	}
	if got, want := m.pattern(), "^TestA$/^some_case$"; got != want {
		t.Errorf("pattern %s, want %s", got, want)
	}
}
