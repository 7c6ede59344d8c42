"""A mistake of the user is one line of bounded length."""

from deeplab2 import errors


def test_one_line_whatever_is_quoted(capsys):
  assert errors.report(errors.UserError('a\nb \r\n  c  d')) == 2
  assert capsys.readouterr().err == 'error: a b c  d\n'


def test_inputs_that_were_left_out_have_an_exit_code_of_their_own(capsys):
  assert errors.report(errors.LeftOut('2 of 5 images')) == 1
  assert capsys.readouterr().err == 'error: 2 of 5 images\n'


def test_long_quotes_are_cut_in_the_middle(capsys):
  errors.report(errors.UserError(f'file: {"x" * 10**6} is wrong.'))
  line = capsys.readouterr().err
  assert line.startswith('error: file: xxx') and line.endswith('x is wrong.\n')
  assert ' [...] ' in line and len(line) < 1600
