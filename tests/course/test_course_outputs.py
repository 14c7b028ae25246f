from pathlib import Path

from nbformat import v4

from lessonlib_course import outputs


def cleaned(*found, tags=(), words=None):
    cell = v4.new_code_cell("x", outputs=list(found), metadata={"tags": list(tags), "execution": {"t": "1"}})
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell("y"), cell], metadata={"widgets": {"a": 1}})
    outputs.clean(notebook, words or {})
    assert "widgets" not in notebook.metadata and "execution" not in cell.metadata
    return cell.outputs


def stream(text, name="stdout"):
    return v4.new_output("stream", name=name, text=text)


def shown(**data):
    return v4.new_output("display_data", data={key.replace("_", "/"): value for key, value in data.items()})


def test_stderr_goes_and_the_pieces_of_stdout_around_it_become_one():
    (only,) = cleaned(stream("a\n"), stream("warning", "stderr"), stream("b\n"))
    assert only.text == "a\nb\n"


def test_pieces_around_a_figure_stay_apart():
    assert [output.output_type for output in cleaned(stream("a"), shown(text_plain="f"), stream("b"))] == [
        "stream", "display_data", "stream",
    ]


def test_addresses_and_paths_of_this_machine_go(tmp_path):
    work = tmp_path / "work"
    words = {tmp_path: "tmp", work: "work"}
    (text, table) = cleaned(
        stream(f"{work}/out <A at 0x7f3a2b4c5d6e> {tmp_path}/x 0x10"), shown(text_html=f"<b>{work}</b>"),
        words=words,
    )
    assert text.text == "work/out <A at 0x…> tmp/x 0x10"
    assert table.data == {"text/html": "<b>work</b>"}


def test_a_link_to_a_folder_is_replaced_as_well_as_the_folder(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    (only,) = cleaned(stream(f"{link}/a {Path(link).resolve()}/b"), words={link: "work"})
    assert only.text == "work/a work/b"


def test_the_trainers_timings_go_and_its_loss_stays():
    line = "{'train_runtime': '12.34', 'eval_steps_per_second': 5.6e-01, 'train_loss': 1.25}"
    (only,) = cleaned(stream(line))
    assert only.text == "{'train_runtime': '…', 'eval_steps_per_second': …, 'train_loss': 1.25}"


def test_times_and_sizes_go_in_timed_cells_only():
    line = "12.5 s, 3 MiB, 1,200 tok/s, 40 steps, loss 0.25, v2.0s3\n"
    (kept,) = cleaned(stream(line))
    (timed,) = cleaned(stream(line), tags=["timed"])
    assert kept.text == line
    assert timed.text == "… s, … MiB, … tok/s, 40 steps, loss 0.25, v2.0s3\n"


def test_the_random_names_of_styled_tables_become_fixed():
    html = '<style>#T_a1b2c_row0 {}</style><table id="T_a1b2c"><table id="T_00ff0">'
    (only,) = cleaned(shown(text_html=html))
    assert only.data["text/html"] == '<style>#T_00000_row0 {}</style><table id="T_00000"><table id="T_00001">'


def test_widget_views_go_and_pictures_stay():
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    bar = v4.new_output("display_data", data={**view, "text/plain": "Loading: 0%| | 0/53 [00:00<?, ?it/s]"})
    assert cleaned(bar, v4.new_output("display_data", data=view)) == []
    assert cleaned(shown(image_png="0x7f3a2b4c5d6e"))[0].data == {"image/png": "0x7f3a2b4c5d6e"}
