package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// The table in README.md stands between these.
const (
	tableBegin = "<!-- go run ./test/prove -table writes what follows -->\n"
	tableEnd   = "<!-- end of what it writes -->\n"
)

// writeTable replaces the table in a file.
func writeTable(path string, all []*mutation) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, _, ok := strings.Cut(string(text), tableBegin)
	_, after, ok2 := strings.Cut(string(text), tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the lines between which the table stands", path)
	}
	return os.WriteFile(path, []byte(before+tableBegin+table(all)+tableEnd+after), 0o644)
}

// table lists mutations by their promises.
func table(all []*mutation) string {
	var b strings.Builder
	for _, p := range promises {
		head := false
		for _, m := range all {
			if m.promise != p.name {
				continue
			}
			if !head {
				fmt.Fprintf(&b, "\n### %s\n\n%s.\n\n| guard | where | without it | what fires | and says |\n|---|---|---|---|---|\n",
					strings.ToUpper(p.name[:1])+p.name[1:], p.text)
				head = true
			}
			test := "`" + m.test + "` in `" + strings.TrimPrefix(m.pkg, "./") + "`"
			if m.kafka != "" {
				test += ", on Apache Kafka"
			}
			fmt.Fprintf(&b, "| [%s](mutations/%s.txtar) | %s | %s | %s | `%s` |\n", cell(m.guard), m.name, m.where(), cell(m.why), cell(test), strings.ReplaceAll(m.fails, "|", `\|`))
		}
	}
	return b.String() + "\n"
}

// where are the files that a mutation changes.
func (m *mutation) where() string {
	var files []string
	for _, e := range m.edits {
		if name := "`" + e.file + "`"; !slices.Contains(files, name) {
			files = append(files, name)
		}
	}
	return strings.Join(files, ", ")
}

// cell is a text as a table takes it.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
