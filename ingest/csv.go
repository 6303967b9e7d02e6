package ingest

import (
	"bytes"
	"encoding/csv"
)

// CSV reads comma separated values (RFC 4180), a row after the other. Rows may differ in length, and empty lines are passed over. Other than
// [csv.Reader] alone it keeps line ends within quotes as they were sent.
type CSV struct {
	rows *csv.Reader
	text []byte
}

// NewCSV begins to read a text. trim: blanks before fields are none of theirs.
func NewCSV(text []byte, trim bool) *CSV {
	c := &CSV{newCSVReader(text), text}
	c.rows.TrimLeadingSpace = trim
	return c
}

func newCSVReader(text []byte) *csv.Reader {
	r := csv.NewReader(bytes.NewReader(text))
	r.FieldsPerRecord, r.ReuseRecord = -1, true
	return r
}

// Read returns the fields of the next row, which hold until the next call, and its part of the text, without the line end. The error is io.EOF at the end, or a
// [*csv.ParseError].
func (c *CSV) Read() (fields []string, source []byte, err error) {
	from := c.rows.InputOffset()
	fields, err = c.rows.Read()
	if err != nil {
		return nil, nil, err
	}
	source = bytes.Trim(c.text[from:c.rows.InputOffset()], "\r\n")
	if bytes.Contains(source, []byte("\r\n")) { // within quotes: the reader takes one CR before each LF away
		again := newCSVReader(bytes.ReplaceAll(source, []byte("\r\n"), []byte("\r\r\n")))
		again.TrimLeadingSpace = c.rows.TrimLeadingSpace
		fields, err = again.Read()
	}
	return fields, source, err
}

// Line is where the row that was read last begins, from 1.
func (c *CSV) Line() int {
	line, _ := c.rows.FieldPos(0)
	return line
}
