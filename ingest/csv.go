package ingest

import (
	"bytes"
	"encoding/csv"
	"errors"
)

// CSV reads comma separated values (RFC 4180), a row after the other. Rows may differ in length, and empty lines are passed over. Unlike
// [csv.Reader] it keeps line ends within quotes as they were sent, and refuses lines that end in CR alone, which that reads as one line.
type CSV struct {
	rows    *csv.Reader
	text    []byte // what rows reads
	doubled bool   // in text, a CRLF within quotes has another CR, of which rows takes one away
}

var errLoneCR = errors.New("a line ends in CR alone; lines end in LF or CRLF")

// NewCSV begins to read a text. trim: blanks around a field, and around its quotes, are none of it. The error is a [*csv.ParseError].
func NewCSV(text []byte, trim bool) (*CSV, error) {
	var prepared bytes.Buffer
	quoted, doubled, done := false, false, 0 // done: so much of the text is in prepared
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			if quoted = !quoted; quoted || !trim {
				continue
			}
			rest := bytes.TrimLeft(text[i+1:], " \t")
			if blanks := len(text) - i - 1 - len(rest); blanks > 0 && (len(rest) == 0 || bytes.IndexByte([]byte(",\r\n"), rest[0]) >= 0) {
				prepared.Write(text[done : i+1])
				i += blanks
				done = i + 1
			}
		case '\r':
			switch before := i+1 < len(text) && text[i+1] == '\n'; {
			case quoted && before:
				prepared.Write(text[done : i+1])
				prepared.WriteByte('\r')
				done, doubled = i+1, true
			case !quoted && !before && i+1 < len(text):
				line := bytes.Count(text[:i], []byte("\n")) + 1
				return nil, &csv.ParseError{StartLine: line, Line: line, Column: i - bytes.LastIndexByte(text[:i], '\n'), Err: errLoneCR}
			}
		}
	}
	if done > 0 {
		prepared.Write(text[done:])
		text = prepared.Bytes()
	}
	c := &CSV{csv.NewReader(bytes.NewReader(text)), text, doubled}
	c.rows.FieldsPerRecord, c.rows.ReuseRecord, c.rows.TrimLeadingSpace = -1, true, trim
	return c, nil
}

// Read returns the fields of the next row, which hold until the next call, and what it was read from, without the line end. The error is io.EOF at
// the end, or a [*csv.ParseError].
func (c *CSV) Read() (fields []string, source []byte, err error) {
	from := c.rows.InputOffset()
	if fields, err = c.rows.Read(); err != nil {
		return nil, nil, err
	}
	source = bytes.Trim(c.text[from:c.rows.InputOffset()], "\r\n")
	if c.doubled {
		source = bytes.ReplaceAll(source, []byte("\r\r\n"), []byte("\r\n"))
	}
	return fields, source, nil
}

// Line is where the row that was read last begins, from 1.
func (c *CSV) Line() int {
	line, _ := c.rows.FieldPos(0)
	return line
}
