package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"
)

// mutation is a file of the folder mutations, as the package comment describes it.
type mutation struct {
	name    string // of the file, without its ending
	promise string // place in promises
	guard   string
	why     string
	pkg     string // as in ./ingest
	test    string // as in TestName or TestName/case
	fails   string
	kafka   string
	edits   []edit
}

// edit replaces one text in a file of the module.
type edit struct{ file, old, new string }

const instead = "instead"

// readMutations reads all files of a folder, in the order of their names. The error names every file that cannot be used.
func readMutations(dir string) ([]*mutation, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("there are no mutations in %s", dir)
	}
	var all []*mutation
	var problems []error
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		m, err := parseMutation(strings.TrimSuffix(filepath.Base(path), ".txtar"), data)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", path, err))
			continue
		}
		all = append(all, m)
	}
	return all, errors.Join(problems...)
}

func parseMutation(name string, data []byte) (*mutation, error) {
	archive := txtar.Parse(data)
	m := &mutation{name: name}
	var test string
	directives := map[string]*string{"promise": &m.promise, "guard": &m.guard, "test": &test, "fails": &m.fails, "kafka": &m.kafka}
	for line := range strings.Lines(string(archive.Comment)) {
		line = strings.TrimSpace(line)
		directive, ok := strings.CutPrefix(line, "@")
		if !ok {
			m.why = strings.TrimSpace(m.why + " " + line)
			continue
		}
		key, value, _ := strings.Cut(directive, " ")
		into := directives[key]
		if into == nil || *into != "" {
			return nil, fmt.Errorf("@%s is not a directive, or is there twice", key)
		}
		*into = strings.TrimSpace(value)
	}
	m.pkg, m.test, _ = strings.Cut(test, " ")
	m.test = strings.TrimSpace(m.test)
	switch {
	case m.why == "" || m.guard == "" || m.test == "" || m.fails == "":
		return nil, errors.New("the comment must say why, and have @promise, @guard, @test PACKAGE NAME and @fails")
	case !slices.ContainsFunc(promises, func(p struct{ name, text string }) bool { return p.name == m.promise }):
		return nil, fmt.Errorf("@promise %q is none of promises.go", m.promise)
	case m.kafka != "" && m.kafka != "apache":
		return nil, fmt.Errorf("@kafka %q must be apache, or not be there", m.kafka)
	case !strings.HasPrefix(m.pkg, "./") || !strings.HasPrefix(m.test, "Test") && !strings.HasPrefix(m.test, "Fuzz"):
		return nil, fmt.Errorf("@test %q must be ./package TestName, or the seeds of a fuzz target", test)
	}
	for i := 0; i < len(archive.Files); i += 2 {
		if i+1 == len(archive.Files) || archive.Files[i+1].Name != instead {
			return nil, fmt.Errorf("behind -- %s -- there must be -- %s --", archive.Files[i].Name, instead)
		}
		e := edit{
			file: archive.Files[i].Name,
			old:  strings.TrimSuffix(string(archive.Files[i].Data), "\n"),
			new:  strings.TrimSuffix(string(archive.Files[i+1].Data), "\n"),
		}
		if e.old == "" || e.old == e.new {
			return nil, fmt.Errorf("the text of %s is empty, or stays as it is", e.file)
		}
		m.edits = append(m.edits, e)
	}
	if len(m.edits) == 0 {
		return nil, errors.New("nothing is changed")
	}
	return m, nil
}

// files are the files that the mutation changes, below root, by name as they are after it.
func (m *mutation) files(root string) (map[string][]byte, error) {
	changed := map[string][]byte{}
	for _, e := range m.edits {
		text, ok := changed[e.file]
		if !ok {
			var err error
			if text, err = os.ReadFile(filepath.Join(root, e.file)); err != nil {
				return nil, err
			}
		}
		if n := strings.Count(string(text), e.old); n != 1 {
			return nil, fmt.Errorf("%s has the text %d times, and not once:\n%s", e.file, n, e.old)
		}
		changed[e.file] = []byte(strings.Replace(string(text), e.old, e.new, 1))
	}
	return changed, nil
}

// pattern is the test as -run takes it.
func (m *mutation) pattern() string {
	name, sub, found := strings.Cut(m.test, "/")
	pattern := "^" + name + "$"
	if found {
		pattern += "/^" + strings.ReplaceAll(regexp.QuoteMeta(sub), " ", "_") + "$"
	}
	return pattern
}
